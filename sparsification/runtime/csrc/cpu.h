// Selection of the kernels for this CPU, and their scratch memory.
#pragma once

#include "kernels.h"

// The fastest kernels that this CPU runs, or those that the environment variable SPARSIFICATION_CPU names.
// Throws std::invalid_argument if it names none that run here.
const Kernels& kernels();
// The same at run time, for tests; false if there are none of that name that run here.
bool select_kernels(const char* name);
// Names of the kernels that run here, fastest first, with a space after each.
const char* available_kernels();

// Memory at a multiple of `alignment`, which divides `bytes`; null if there is none. Windows has functions of its own.
void* allocate_aligned(size_t alignment, size_t bytes);
void free_aligned(void* memory);

// Memory of the calling thread, 64-byte aligned, at least that large. Valid until the thread's next call.
void* scratch(size_t bytes);
// Another one, which stays valid while the calling thread takes scratch memory.
void* shared_scratch(size_t bytes);

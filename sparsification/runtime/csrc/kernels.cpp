// The kernels for one instruction set, which -DVARIANT names: build.py compiles this file once for each.
#include "add_norm.h"
#include "attention.h"
#include "float_attention.h"
#include "float_linear.h"
#include "linear.h"
#include "window_linear.h"

#define NAME_(prefix, name) prefix##name
#define NAME(prefix, name) NAME_(prefix, name)
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

extern const Kernels NAME(kernels_, VARIANT);
const Kernels NAME(kernels_, VARIANT) = {
    TEXT(VARIANT), kAddsPairs,  linear_panel, linear,       window_linear,  attention,
    add_norm,      float_panel, float_linear, float_output, float_attention};

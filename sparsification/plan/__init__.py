"""Plans: which layers of an encoder to prune how far, so that it meets a target latency or file size.

The command ``sparsification plan`` (``cli.plan``) goes through these steps:

1. ``units``: the linear layers of the encoder, those with the same inputs (query, key and value) as one unit, because
   the sparse runtime computes them by one operator. A unit has one option: a number format, a mask pattern and a
   sparsity. The number format is the same in the whole model.
2. ``costs``: milliseconds and bytes of each option for each shape of a unit, timed in ONNX Runtime on this machine, and
   those of the rest of the model. A layer alone keeps its weights in the caches and has no operators around it. So the
   model itself is timed as well: dense, with all units sparse at two sparsities, and with the units of one shape dense
   and all others sparse. The time of a sparse model is ``rest + factor x (sum of its layers)``, a line through the two
   sparse models; a dense unit costs what it adds to the model in which those of its shape are dense. A model without
   sparse layers takes longer than this sum, because nothing is fused in its file: it has its own time. All files take
   turns, since the speed of a shared machine changes from one minute to the next.
3. ``losses``: for each weight and option the relative error of the layer's outputs, by SparseGPT on calibration data,
   with the inputs of the dense model, times a sensitivity: the change of the model's outputs, in units of their
   variance, over the relative error, when this weight alone has 80 % sparsity. Over the layers of a MiniLM it differs
   by a factor of 90, over the options of one layer by less than 2, so that one measurement is enough for all. int8 adds
   the error of rounding weights and inputs. A line of a file for each weight: a study that was interrupted goes on.
4. ``drops``: what the outputs lose without some encoder layers. Each time that layer goes whose absence changes them
   least. The time of a layer besides its units is that of a sparse model less one without every other layer.
5. ``allocation``: the options with the smallest sum of losses within the budget, by dynamic programming over
   discretized costs, which is that of SPDY (Frantar & Alistarh 2022, arXiv:2201.13096). SPDY searches for the
   sensitivities; here they are measured.
6. ``planner`` does this for fp32 and for int8, with all layers and without some, and takes the best one. ``recipe``
   writes it as a recipe, ``report`` as a table and a picture, and ``apply`` prunes the model by it without training,
   and exports it.

``shape`` plans smaller dense models for engines without sparse operators, in the same steps.

Weights pruned while the losses are measured are not kept: ``apply`` solves the layers anew, each with the inputs from
the pruned layers before it, which loses less, and a file of errors takes kilobytes instead of gigabytes.
"""

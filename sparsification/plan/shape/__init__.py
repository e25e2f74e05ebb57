"""Plans of smaller dense models, for any engine: which layers go, and how many neurons stay in each feed-forward block.

The classes of Transformers have one number of neurons for all layers, and heads of hidden size / number of heads: heads
cannot go, and all blocks have the same width. So a plan is a list of layers and a width.

1. ``encoder``: the layers of an encoder and the two matrices of each feed-forward block.
2. ``costs``: three models are timed in ONNX Runtime: the whole one, one with few neurons, one with half of the layers.
   The time of a model is ``rest + layers x (layer + width x neuron)``, which is exact for these three.
3. ``losses``: of a block the relative error of its outputs for each width, fitted to the dense one, times a sensitivity
   as in ``plan.losses``; of layers that of ``plan.drops``.
4. ``planner``: the layers and the width with the smallest sum of losses within the budget. ``recipe`` writes them.
"""

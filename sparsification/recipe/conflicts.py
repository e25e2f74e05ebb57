"""Conflicts between modifiers of one recipe: two that set one learning rate or mask one weight at the same time."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from sparsification.base import Modifier


def learning_rate_conflicts(modifiers: Sequence[Modifier]) -> Iterator[tuple[int, int]]:
    """Find modifiers that set one learning rate at the same time.

    Windows of which one starts where the other ends do not conflict. A modifier with ``acts_at_start`` conflicts if its
    start lies inside another window, or equals the start of another modifier with ``acts_at_start``.

    Yields:
        Pairs of indices into ``modifiers``, the lower first.
    """
    rates = [(index, modifier) for index, modifier in enumerate(modifiers) if modifier.sets_learning_rate]
    for (i, one), (j, other) in itertools.combinations(rates, 2):
        (start, end), (other_start, other_end) = one.active_range, other.active_range
        match one.acts_at_start, other.acts_at_start:
            case True, True:
                at_once = start == other_start
            case True, False:
                at_once = other_start < start < other_end
            case False, True:
                at_once = start < other_start < end
            case _:
                at_once = max(start, other_start) < min(end, other_end)
        groups = [set(modifier.lr_groups) for modifier in (one, other) if modifier.lr_groups is not None]
        if at_once and (len(groups) < 2 or groups[0] & groups[1]):  # None: all groups
            yield i, j


def mask_conflicts(modifiers: Iterable[Modifier]) -> Iterator[str]:
    """Describe each pair of initialized modifiers that would mask one weight at the same time."""
    for one, other in itertools.combinations(modifiers, 2):
        shared = [name for name in one.pruned_names() if name in set(other.pruned_names())]
        start, end = max(one.active_range[0], other.active_range[0]), min(one.active_range[1], other.active_range[1])
        if shared and start < end:
            yield (
                f"{type(one).__name__} and {type(other).__name__} both prune {shared[0]}"
                f"{f' and {len(shared) - 1} more' if len(shared) > 1 else ''} between epochs {start:g} and {end:g}"
            )

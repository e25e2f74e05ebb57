"""Do rows come back as they were written, and only those that were written completely?"""

import numpy as np
import pytest
import torch

from sparsification.distillation.row_store import RowStore

COLUMNS = {"a.b": (torch.bfloat16, 3), "c": (torch.float32, 1)}


def opened(folder) -> RowStore:
    store = RowStore(folder, np.array([2, 4, 3]))
    store.create(COLUMNS)
    assert store.open()
    return store


def values(length: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(length, width).to(dtype) for name, (dtype, width) in COLUMNS.items()}


def test_rows_of_any_length_come_back_in_the_order_asked_for_also_in_another_process(tmp_path):
    store, written = opened(tmp_path), values(5)
    store.write([2, 0], written)
    for reader in (store, RowStore(tmp_path, np.array([2, 4, 3]))):
        found = reader.read([0, 2])
        for name, value in written.items():
            assert torch.equal(found[name], torch.cat([value[3:], value[:3]]))
        assert reader.read([2], 2)["c"].tolist() == written["c"][:2].tolist()
        assert reader.read([0, 1]) is None


def test_row_that_is_shorter_than_its_space_is_read_up_to_its_length(tmp_path):
    store, written = opened(tmp_path), values(3)
    store.write([1], written, 3)
    assert store.has(1, 3) and not store.has(1)
    assert torch.equal(store.read([1], 3)["a.b"], written["a.b"])
    assert store.read([1], 4) is None and store.read([1]) is None


@pytest.mark.parametrize("name", ["a.b.bfloat16", "c.float32"])
def test_row_that_was_written_in_part_is_missing(name, tmp_path):
    opened(tmp_path).write([0, 1, 2], values(9))
    data = bytearray((tmp_path / name).read_bytes())
    data[-2:] = bytes(2)
    (tmp_path / name).write_bytes(data)
    store = opened(tmp_path)
    assert [store.has(row) for row in range(3)] == [True, True, False]


def test_files_without_an_index_are_no_store_until_it_is_created_after_them(tmp_path):
    opened(tmp_path)
    (tmp_path / "index.uint32").unlink()
    store = RowStore(tmp_path, np.array([2, 4, 3]))
    assert not store.open() and store.read([0]) is None
    assert {path.name: size for path, size in store.sizes(COLUMNS).items()} == {
        "a.b.bfloat16": 9 * 3 * 2,
        "c.float32": 9 * 4,
        "index.uint32": 3 * 8,
    }
    assert list(store.sizes(COLUMNS))[-1].name == "index.uint32"
    store.create(COLUMNS)
    assert store.open() and not store.has(0)

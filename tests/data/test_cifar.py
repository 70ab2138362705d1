from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from decentral.data.cifar import _read
from decentral.data.datasets import load_dataset
from decentral.errors import DatasetNotFound, UserError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def batch(images: np.ndarray, labels: list[int]) -> dict[str, object]:
    return {"batch_label": "a batch", "labels": labels, "data": images, "filenames": ["a.png"] * len(labels)}


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, np.ndarray, list[int]]:
    """Five training files of 4 images and a test file of 4, in CIFAR-10's layout; all images, all labels."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (24, 3072), dtype=np.uint8)
    labels = [index % 10 for index in range(24)]
    for number, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        part = slice(4 * number, 4 * number + 4)
        (folder / name).write_bytes(pickle.dumps(batch(images[part], labels[part]), protocol=number % 6))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}, protocol=0))
    return tmp_path, images.reshape(-1, 3, 32, 32), labels


def test_images_come_in_the_order_asked_for_across_files_and_pickle_protocols(
    tiny: tuple[Path, np.ndarray, list[int]],
) -> None:
    root, images, labels = tiny
    dataset = load_dataset("cifar10", root=root, verify=False)
    assert dataset.class_names == tuple(NAMES)
    assert dataset.train_labels.tolist() == labels[:20]
    assert dataset.test_labels.tolist() == labels[20:]
    wanted = np.array([19, 0, 7, 7, 12])
    assert np.array_equal(dataset.train_images(wanted), images[wanted])
    assert np.array_equal(dataset.test_images(), images[20:])
    assert dataset.train_images(np.array([], dtype=np.int64)).shape == (0, 3, 32, 32)
    with pytest.raises(IndexError):
        dataset.train_images(np.array([20]))


def test_a_copy_that_is_not_the_published_one_is_accepted_only_unverified(
    tiny: tuple[Path, np.ndarray, list[int]],
) -> None:
    root = tiny[0]
    with pytest.raises(UserError, match=r"MD5 .* set data\.verify: false"):
        load_dataset("cifar10", root=root)
    assert len(load_dataset("cifar10", root=root, verify=False).train_labels) == 20


def python2_pickle(labels: list[int], raw: bytes, shape: tuple[int, int]) -> bytes:
    """Protocol 2 as Python 2 and an old numpy wrote CIFAR: bytes as SHORT/BINSTRING, numpy.core.multiarray."""
    strings = pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw
    return b"".join(
        [
            b"\x80\x02}(U\x06labels(" + b"".join(b"K" + bytes([label]) for label in labels) + b"l",
            b"U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR",
            b"(K\x01(" + b"".join(b"M" + size.to_bytes(2, "little") for size in shape) + b"t",
            b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            strings + b"tbu.",
        ]
    )


def test_the_original_python_2_encoding_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 3072), dtype=np.uint8)
    file = tmp_path / "data_batch_1"
    file.write_bytes(python2_pickle([6, 9], images.tobytes(), images.shape))
    content = _read(file)
    assert content["labels"] == [6, 9]
    assert np.array_equal(content["data"].array, images)


def test_images_stored_by_columns_are_read(tmp_path: Path) -> None:
    images = np.asfortranarray(np.random.default_rng(2).integers(0, 256, (3, 3072), dtype=np.uint8))
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps(batch(images, [1, 2, 3]), protocol=2))
    assert np.array_equal(_read(file)["data"].array, images)


class Command:
    """Pickles as a call of os.system, which a careless reader would make."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (self.line,)


def rebuilt(function: Callable[..., object], *arguments: object) -> bytes:
    """A pickle that calls `function`."""

    class Call:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return function, arguments

    return pickle.dumps({"data": Call()})


@pytest.mark.parametrize(
    "content",
    [
        rebuilt(eval, "1 + 1"),
        rebuilt(getattr, [], "append"),
        rebuilt(np.load, "images.npy"),
        rebuilt(np.dtype, "O"),
        pickle.dumps({"data": np.array([{}], dtype=object)}),
        pickle.dumps({"data": np.zeros((2, 3072), dtype=np.float64)}),
        pickle.dumps({"data": Path("x")}),
        pickle.dumps([1, 2, 3]),
        pickle.dumps(batch(np.zeros((2, 3072), dtype=np.uint8), [1, 2]), protocol=2)[:-100],
        python2_pickle([1], b"\0" * 3071, (1, 3072)),
        b"",
        b"not a pickle",
    ],
)
def test_a_file_that_names_anything_but_arrays_of_bytes_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as CIFAR images"):
        _read(file)


def test_nothing_that_a_file_names_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    content = pickle.dumps({"data": Command(f"touch {trace}")})
    pickle.Unpickler(io.BytesIO(content)).load()
    assert trace.exists(), "the sample must do harm where it is read carelessly"
    trace.unlink()
    file = tmp_path / "data_batch_1"
    file.write_bytes(content)
    with pytest.raises(UserError, match="which no image needs"):
        _read(file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": [1, 2, 3, 10]}, "labels outside"),
        ({"labels": "1234"}, "no list of labels"),
        ({"data": None}, "no images of 3072 bytes"),
        ({"data": np.zeros((4, 3071), dtype=np.uint8)}, "no images of 3072 bytes"),
    ],
)
def test_a_file_with_other_content_is_refused(
    changed: dict[str, object], message: str, tiny: tuple[Path, np.ndarray, list[int]]
) -> None:
    file = tiny[0] / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(pickle.dumps({**batch(tiny[1][:4].reshape(4, -1), [0, 1, 2, 3]), **changed}))
    dataset = load_dataset("cifar10", root=tiny[0], verify=False)
    with pytest.raises(UserError, match=message):
        dataset.train_images(np.arange(len(dataset.train_labels)))


def test_a_download_is_made_only_when_asked_and_its_failure_is_an_error_of_one_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    asked: list[Path] = []

    def unreachable(root: Path, download: bool) -> None:
        asked.append(root)
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)
    with pytest.raises(DatasetNotFound, match=r"data\.download: true"):
        load_dataset("cifar10", root=tmp_path)
    assert asked == []
    with pytest.raises(DatasetNotFound, match=r"could not be downloaded .* no route to host"):
        load_dataset("cifar10", root=tmp_path / "new", download=True)
    assert asked == [tmp_path / "new"]


def test_what_was_downloaded_is_used(
    tmp_path: Path, tiny: tuple[Path, np.ndarray, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    target = tmp_path / "downloaded"

    def fetched(root: Path, download: bool) -> None:
        (tiny[0] / "cifar-10-batches-py").rename(root / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetched)
    for _ in range(2):  # the second finds it there
        assert len(load_dataset("cifar10", root=target, download=True, verify=False).train_labels) == 20


def test_real_images_have_the_published_statistics(data_root: Path) -> None:
    try:
        dataset = load_dataset("cifar10", root=data_root, verify=False)
    except DatasetNotFound as error:
        pytest.skip(str(error))
    assert dataset.class_names == tuple(NAMES)
    assert np.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    pixels = dataset.train_images(np.arange(50_000))
    for channel in range(3):
        assert pixels[:, channel].mean() == pytest.approx(dataset.mean[channel], abs=0.05)
        assert pixels[:, channel].std() == pytest.approx(dataset.std[channel], abs=0.05)

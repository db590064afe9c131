"""Which images a run trains on, selects checkpoints by, and is tested on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from ..libraries import Tensor, torch
from ..settings.config import Real, Settings, Whole, parse_real
from ..settings.errors import UserError
from .class_numbers import class_numbers
from .image_set import ImageSet, rows_of_classes
from .label_noise import LabelNoise, corrupt
from .long_tailed import LongTail, choose
from .sources import find_source, load, load_labels
from .spec import choose_splits
from .split import stratified_split


class Data(Settings):
    """Training, validation and test images. The validation images come out of the training split by default.

    Everything that is selected (the best checkpoint) is selected on validation images, never on test images. If
    the source has a validation split but no test split, as Imagenette, then that split is the test set.
    """

    source: str = "digits"
    """SPEC of the training images: ``digits``, parquet file, folder or glob, image folder, ``hub:OWNER/NAME``."""
    test: str | None = None
    """SPEC of the test images; by default the test (else validation) split of ``source``."""
    validation: float | str = 0.1
    """Share of the training images to hold out, stratified, or their number, or a SPEC."""
    examples: Annotated[Whole, Field(ge=1)] | None = None
    """Use only so many images of the training split, of each class its share; held-out images come out of these."""
    classes: Annotated[list[Whole | str], Field(min_length=2)] | None = None
    """Use only these classes, named or numbered from 0; labels count in this order, in all splits."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded, and count them, instead of an error."""
    long_tail: LongTail | None = None
    """Make the training images imbalanced (``long_tailed.py``); held-out images come out of those that are left."""
    label_noise: LabelNoise | None = None
    """Make labels of training images wrong (``label_noise.py``); validation and test labels stay as they are."""
    contrast: Annotated[Real, Field(gt=0, le=1)] = 1.0
    """All images, test images too, are seen at x = 0.5 + contrast (x - 0.5), rounded to 256 values."""
    workers: Annotated[Whole, Field(ge=0)] = 2
    """Processes that decode images of a set that does not fit in memory."""

    @field_validator("validation", mode="before")
    @classmethod
    def _number_or_spec(cls, value: Any) -> Any:
        allowed = "a fraction in (0, 1), a count of at least 1, or a SPEC"
        try:
            value = parse_real(value)
        except UserError:
            if isinstance(value, str) and value:
                return value
            raise UserError("", value, allowed) from None
        number = isinstance(value, int | float)
        if not number or not 0 < value < float("inf") or (value > 1 and value != int(value)):
            raise UserError("", value, allowed)
        return value

    def load_training(self, img_size: int | None) -> tuple[ImageSet, ImageSet]:
        """The images to train on and those to validate on; the test images' labels are looked at, no more.

        Raises:
            UserError: If a set is not there or wrong, or their classes do not match.
        """
        every = self._only(self._load(self.source, "train", img_size, "data.source"))
        if self.examples is not None and self.examples < len(every):
            every = every.subset(_some(every.labels, self.examples))
        _refuse_gaps(every.labels, every.class_names)
        test = self._test_spec()
        if test is not None:
            labels, names = self._labels(test, "test", setting="data.test")
            _refuse_other_classes(labels, names, every.labels, every.class_names, "data.test")
        if self.long_tail is not None:
            every = every.subset(choose(self.long_tail, every))
        if not isinstance(self.validation, str):
            rows = stratified_split(every.labels, self.validation, every_class=self.long_tail is not None)
            return self._noisy(every.subset(rows[0])), every.subset(rows[1])
        validation = self._only(self._load(self.validation, "validation", img_size, "data.validation"))
        _refuse_other_classes(
            validation.labels, validation.class_names, every.labels, every.class_names, "data.validation"
        )
        self._refuse_selection_on(validation, every, "data.source, the training images")
        if test is not None:
            self._refuse_selection_on(validation, self._load(test, "test", img_size, "data.test"), "the test images")
        if validation.shape != every.shape:
            given = f"images of {validation.shape}, others than {every.shape} of data.source"
            raise UserError("data.validation", given, "images of one shape", "model.img_size")
        return self._noisy(every), validation

    def load_test(self, img_size: int | None) -> ImageSet:
        """The test images: ``test``, else the test, else the validation split of ``source``, else all of it.

        The last are the training images: ``inure evaluate`` flags what it finds on them as unverified.
        """
        spec = self._test_spec() or self.source
        images = self._only(self._load(spec, "test", img_size, "data.test"))
        try:
            labels, names = self._labels(self.source, "train")
        except UserError:
            # Where a finished run is evaluated, the training images need not be; load_training has checked.
            return images
        _refuse_other_classes(images.labels, images.class_names, labels, names, "data.test")
        return images

    def _load(self, spec: str, split: str, img_size: int | None, setting: str) -> ImageSet:
        return load(
            spec, split, img_size=img_size, skip_bad=self.skip_bad, contrast=self.contrast, setting=setting
        )  # fmt: skip

    def _noisy(self, training: ImageSet) -> ImageSet:
        return training if self.label_noise is None else corrupt(self.label_noise, training)

    def _only(self, images: ImageSet) -> ImageSet:
        """The images of ``classes``."""
        return images if self.classes is None else images.of_classes(self._numbers(images.class_names))

    def _labels(self, spec: str, split: str, setting: str = "data.source") -> tuple[Tensor, tuple[str, ...]]:
        """What ``_only`` of the images would have, without decoding them."""
        labels, names = load_labels(spec, split, setting=setting)
        if self.classes is None:
            return labels, names
        numbers = self._numbers(names)
        return rows_of_classes(labels, numbers)[1], tuple(names[k] for k in numbers)

    def _numbers(self, names: tuple[str, ...]) -> list[int]:
        return class_numbers(self.classes or (), names, "data.classes")

    def _refuse_selection_on(self, validation: ImageSet, other: ImageSet, what: str) -> None:
        if validation.hash == other.hash:
            raise UserError(
                "data.validation", f"{self.validation}, which is {what}", "other images, or a fraction", "0.1"
            )

    def _test_spec(self) -> str | None:
        """Where the test images are; None if that would be the training images."""
        if self.test is not None:
            return self.test
        source = find_source(self.source, "data.source")
        trained = choose_splits(source.spec, source.splits, "train", "data.source")
        left = [split for split in ("test", "validation") if split in source.splits and split not in trained]
        return f"{source.spec.place}#{left[0]}" if left else None


def _some(labels: Tensor, count: int) -> Tensor:
    """Rows of ``count`` examples, of each class its share."""
    try:
        return stratified_split(labels, count)[1]
    except UserError as error:
        raise error.at("data.examples") from None


def _refuse_gaps(labels: Tensor, names: tuple[str, ...]) -> None:
    """Unnamed classes without a training example: labels that count from 1, or a stray one."""
    missing = (torch.bincount(labels, minlength=len(names)) == 0).nonzero().flatten()
    if len(missing) and _unnamed(names):
        given = f"labels up to {len(names) - 1} but none of class {int(missing[0])}"
        raise UserError("data.source", given, "labels 0, 1, ... K - 1, or class names in the files")


def _refuse_other_classes(
    labels: Tensor, names: tuple[str, ...], train_labels: Tensor, train_names: tuple[str, ...], setting: str
) -> None:
    """Another number of classes than in training, or the same classes in another order.

    Where files tell no names the number is only the highest label plus one. A small set may then lack the last
    classes by chance: it is refused if that chance is below one in a thousand.
    """
    given = f"{len(names)} classes, where data.source has {len(train_names)}"
    mistake = UserError(setting, given, "the same classes as data.source")
    if len(names) > len(train_names):
        raise mistake
    if len(names) < len(train_names):
        missing = float((train_labels >= len(names)).double().mean())
        if not _unnamed(names) or (1 - missing) ** len(labels) < 1e-3:
            raise mistake
    elif names != train_names and sorted(names) == sorted(train_names):
        raise UserError(setting, "the classes of data.source in another order", "the same order")


def _unnamed(names: tuple[str, ...]) -> bool:
    return names == tuple(str(k) for k in range(len(names)))

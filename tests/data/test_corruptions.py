import colorsys
import pickle

import numpy as np
import pytest
import torch
from loading_checks import everything, refused
from scipy.ndimage import gaussian_filter

from inure.commands.listing import list_items
from inure.data import ImageSet, load, load_labels
from inure.data.corruptions import CORRUPTIONS, GROUPS, blur, corrupt, corrupted, digital
from inure.data.corruptions.frost import SIDE, TEXTURES, frost_texture
from inure.data.corruptions.plasma import plasma
from inure.data.corruptions.resample import smeared, zoomed
from inure.data.corruptions.tables import length_scale
from inure.data.spec import parse_spec
from inure.settings.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
# In the others' tables a severity is not simply more of the one before: radius against sigma, affine against elastic.
UNORDERED = ("glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform")
FIXED = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


def scene(count, size, channels=3, seed=0):
    """Smooth random pictures with some grain, as (count, channels, size, size) uint8."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal((count, channels, size, size)), (0, 0, size / 12, size / 12))
    picture = 0.5 + 0.18 * smooth / smooth.std() + 0.03 * rng.standard_normal(smooth.shape)
    return torch.from_numpy(np.round(255 * picture.clip(0, 1)).astype(np.uint8))


def flat(level, size=32, channels=3, count=1):
    return torch.full((count, channels, size, size), level, dtype=torch.uint8)


def as_float(images):
    return images.double().div(255)


@pytest.fixture(scope="module")
def pictures():
    return {"digit": scene(24, 8, 1), "small": scene(4, 32), "middle": scene(1, 64), "large": scene(1, 224)}


every_kind = pytest.mark.parametrize("kind", CORRUPTIONS)


def test_the_corruptions_are_those_of_imagenet_c_in_its_order():
    assert ["gaussian_noise", "shot_noise", "impulse_noise"] == [*GROUPS["noise"]] == [*CORRUPTIONS][:3]
    assert [len(group) for group in GROUPS.values()] == [3, 4, 4, 4]
    assert [*CORRUPTIONS][-1] == "jpeg_compression"


@every_kind
@pytest.mark.parametrize("severity", SEVERITIES)
def test_every_corruption_changes_images_of_every_size(pictures, kind, severity):
    for images in pictures.values():
        before = images.clone()
        out = corrupt(images, kind, severity, index=range(len(images)))
        assert (out.dtype, out.shape) == (torch.uint8, images.shape)
        changed = (out != images).flatten(1).any(1)
        # One percent of 64 values is often none
        assert changed.any() if kind == "impulse_noise" else changed.all()
        assert torch.equal(images, before)


@every_kind
def test_grey_and_oblong_images_are_corrupted_too(kind):
    for channels in (1, 3):
        images = scene(1, 96, channels)[:, :, 10:26, :70]
        assert (corrupt(images, kind, 3, index=[0]) != images).any()
        tall = scene(1, 96, channels)[:, :, :, :70]
        assert corrupt(tall, kind, 5, index=[0]).shape == tall.shape


@every_kind
def test_an_image_is_corrupted_alike_in_every_batch(pictures, kind):
    images = pictures["small"]
    together = corrupt(images, kind, 4, index=[10, 11, 12, 13])
    turned = corrupt(images.flip(0), kind, 4, index=torch.tensor([13, 12, 11, 10]))
    assert torch.equal(together, turned.flip(0))
    for place in range(4):
        assert torch.equal(corrupt(images[place : place + 1], kind, 4, index=[10 + place])[0], together[place])


@pytest.mark.parametrize(
    "kind",
    [k for k in CORRUPTIONS if k not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate")][:-1],
)
def test_seed_and_index_draw_anew(pictures, kind):
    image = pictures["small"][:1]
    first = corrupt(image, kind, 3, index=[0])
    for other in (corrupt(image, kind, 3, index=[1]), corrupt(image, kind, 3, index=[0], seed=1)):
        assert (first != other).any()


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind not in UNORDERED])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_severity_orders_the_damage(kind, size):
    images = scene(2 if size == 224 else 8, size)
    damage = [
        float((as_float(corrupt(images, kind, s, index=range(len(images)))) - as_float(images)).square().mean())
        for s in SEVERITIES
    ]
    assert damage == sorted(damage)
    assert len({*damage}) == 5


@pytest.mark.parametrize("kind", UNORDERED[:-1])
def test_the_last_severity_damages_more_than_the_first(kind):
    images = scene(24, 32)
    mild, strong = (as_float(corrupt(images, kind, s, index=range(24))) - as_float(images) for s in (1, 5))
    assert strong.square().mean() > mild.square().mean()


@pytest.mark.parametrize(("size", "sigma"), [(64, 0.10), (65, 0.38)])
def test_gaussian_noise_has_the_deviation_of_its_table(size, sigma):
    # Far from both ends; what is cut off at the ends is beyond 1.3 sigma for 0.38
    out = as_float(corrupt(flat(128, size, count=4), "gaussian_noise", 5, index=range(4))) - 128 / 255
    inside = out[out.abs() < 0.45]
    share = len(inside) / out.numel()
    assert share == pytest.approx(torch.special.erf(torch.tensor(0.45 / sigma / 2**0.5)).item(), abs=0.01)
    if sigma == 0.10:
        assert float(out.std()) == pytest.approx(sigma, rel=0.02)
        assert abs(float(out.mean())) < 3 * sigma / out.numel() ** 0.5


def test_shot_noise_has_the_variance_of_counted_photons():
    for level in (40, 120):
        out = as_float(corrupt(flat(level, 64, count=4), "shot_noise", 4, index=range(4)))
        assert float(out.mean()) == pytest.approx(level / 255, rel=0.02)
        assert float(out.var()) == pytest.approx(level / 255 / 75, rel=0.05)


def test_impulse_noise_replaces_its_share_by_both_ends():
    out = corrupt(flat(100, 64, count=8), "impulse_noise", 5, index=range(8))
    changed = out != 100
    assert {*out.unique().tolist()} == {0, 100, 255}
    assert float(changed.double().mean()) == pytest.approx(0.07, rel=0.05)
    assert float((out[changed] == 255).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"])
@pytest.mark.parametrize("size", [8, 32, 224])
def test_what_only_averages_leaves_a_flat_image_alone(kind, size):
    for severity in SEVERITIES:
        assert torch.equal(corrupt(flat(77, size), kind, severity, index=[0]), flat(77, size))


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "jpeg_compression"])
def test_a_blur_keeps_the_mean_of_what_is_far_from_the_border(kind):
    image = flat(60, 64)
    image[..., 24:40, 24:40] = 200
    out = as_float(corrupt(image, kind, 3, index=[0]))
    # Glass does not move every pixel once, it copies neighbours: its mean holds only roughly
    assert float(out.mean()) == pytest.approx(float(as_float(image).mean()), rel=0.05 if kind == "glass_blur" else 2e-3)


@pytest.mark.parametrize("radius", [0.3, 1.0, 1.5, 3.0, 10.0])
def test_the_disc_sums_to_one_and_is_as_wide_as_a_disc(radius):
    kernel = blur.disc(radius, 0.1).astype(float)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(kernel, kernel.T)
    assert np.allclose(kernel, kernel[::-1])
    axis = np.arange(len(kernel)) - len(kernel) // 2
    if radius >= 1:
        # The variance of a disc along an axis is r^2 / 4; its soft edge and the pixels add a little
        assert 0 <= (kernel.sum(0) * axis**2).sum() - radius**2 / 4 < 0.16


def test_a_point_out_of_focus_is_the_disc():
    image = flat(0, 32)
    image[..., 16, 16] = 255
    out = as_float(corrupt(image, "defocus_blur", 5, index=[0]))[0, 0]
    kernel = blur.disc(1.5, 0.1)
    reach = len(kernel) // 2
    piece = out[16 - reach : 17 + reach, 16 - reach : 17 + reach]
    assert np.abs(piece.numpy() - kernel).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("furthest", [1, 2, 4])
def test_glass_follows_chains_as_the_loop_over_pixels_does(furthest):
    height, width = 17, 23
    quick = blur._displaced(height, width, furthest, np.random.default_rng(3))
    rows, columns = range(height - furthest, furthest, -1), range(width - furthest, furthest, -1)
    shape = (2, height - 2 * furthest, width - 2 * furthest)
    shift = np.random.default_rng(3).integers(-furthest, furthest, (2, shape[1] * shape[2])).reshape(shape)
    slow = np.arange(height * width).reshape(height, width, 1)
    for row in rows:
        for column in columns:
            down, right = shift[:, row - furthest - 1, column - furthest - 1]
            # The official swap of two views of one array: what remains is a copy
            here, there = (row, column), (row + down, column + right)
            slow[here], slow[there] = slow[there], slow[here]
    assert np.array_equal(quick.reshape(height, width), slow[..., 0])
    assert (quick != np.arange(height * width)).mean() > 0.3


def test_motion_blur_is_half_a_gaussian_along_a_line():
    point = np.zeros((1, 41, 41), np.float32)
    point[0, 20, 20] = 1
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    weights /= weights.sum()
    level, steep = smeared(point, 6, 2, 0)[0], smeared(point, 6, 2, -90)[0]
    assert np.allclose(level[20, 20:7:-1], weights, atol=1e-3)
    assert np.allclose(steep[20:33, 20], weights, atol=1e-3)
    assert level.sum() == pytest.approx(1)


def test_a_zoom_reads_the_image_linearly_about_its_centre():
    row, column = np.indices((9, 12), np.float32)
    for factor in (1.0, 1.3, 2.0):
        expected = 4 + (row - 4) / factor + 10 * (5.5 + (column - 5.5) / factor)
        assert np.allclose(zoomed(row + 10 * column, factor), expected, atol=1e-4)


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation():
    image = scene(1, 32)
    image[0, :, 0, 0] = 0
    out = as_float(corrupt(image, "brightness", 4, index=[0]))[0]
    before = as_float(image)[0]
    for row in range(0, 32, 5):
        for column in range(0, 32, 5):
            hue, saturation, value = colorsys.rgb_to_hsv(*before[:, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
            assert out[:, row, column].tolist() == pytest.approx(expected, abs=0.51 / 255)


def test_contrast_shrinks_distances_to_the_mean_of_each_channel():
    image = scene(1, 224)
    out, before = as_float(corrupt(image, "contrast", 2, index=[0])), as_float(image)
    mean = before.mean((2, 3), keepdim=True)
    assert float((out - (mean + 0.3 * (before - mean))).abs().max()) <= 0.5 / 255 + 1e-6


def test_fog_of_a_white_image_is_the_plasma_at_its_brightness():
    out = as_float(corrupt(flat(255, 32), "fog", 5, index=[0]))
    assert float(out.min()) == pytest.approx(1 / 2.5, abs=0.003)
    assert float(out.max()) == pytest.approx(1, abs=0.003)


def test_plasma_reaches_both_ends_tiles_and_is_rougher_for_slower_decay():
    smooth, rough = (plasma(64, decay, np.random.default_rng(0)) for decay in (3.0, 1.4))
    for clouds in (smooth, rough):
        assert (clouds.shape, clouds.min(), clouds.max()) == ((64, 64), 0, 1)
        seam = np.abs(clouds[:, 0] - clouds[:, -1]).mean()
        assert seam < 3 * np.abs(np.diff(clouds, axis=1)).mean()
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_the_five_frosts_differ_but_are_equally_bright():
    frosts = [frost_texture(number) / 255.0 for number in range(TEXTURES)]
    assert {frost.shape for frost in frosts} == {(SIDE, SIDE, 3)}
    means = [frost.mean() for frost in frosts]
    assert max(means) - min(means) < 0.02
    assert all(np.abs(a - frosts[0]).mean() > 0.1 for a in frosts[1:])


def test_frost_is_the_weighted_sum_of_image_and_ice():
    dark, grey = (as_float(corrupt(flat(level, 64), "frost", 5, index=[3])) for level in (0, 60))
    unclipped = grey < 0.999
    assert float((grey - dark)[unclipped].mean()) == pytest.approx(0.75 * 60 / 255, abs=2e-3)


def test_elastic_smoothing_is_a_gaussian_filter_with_reflected_borders():
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 40, 30))
    expected = gaussian_filter(noise, (0, 2.5, 2.5), mode="reflect", truncate=8)
    assert np.allclose(digital._smooth(noise, 2.5), expected, atol=1e-6)


def test_the_affine_map_takes_three_points_to_moved_ones_and_rest_means_rest():
    still = digital._affine((32, 48), 0.0, np.random.default_rng(0))
    assert np.allclose(still, [[1, 0, 0], [0, 1, 0]])
    moved = np.random.default_rng(1).uniform(-3, 3, (3, 2))
    matrix = digital._affine((32, 32), 3.0, np.random.default_rng(1))
    corners = np.array([[26, 26], [6, 26], [6, 6]])
    assert np.allclose(np.column_stack([corners + moved, np.ones(3)]) @ matrix.T, corners)


def test_pixelate_leaves_as_many_pixels_as_its_table_says():
    ramp = torch.arange(224, dtype=torch.uint8).expand(1, 3, 224, 224).contiguous()
    for severity, share in zip(SEVERITIES, (0.6, 0.5, 0.4, 0.3, 0.25), strict=True):
        assert len(corrupt(ramp, "pixelate", severity, index=[0]).unique()) == int(224 * share)


def test_lengths_follow_the_size_but_do_not_fall_below_those_of_32_pixels():
    scales = [length_scale(np.empty((3, size, size + 9))) for size in (8, 32, 64, 112, 224, 448)]
    assert scales == [1, 1, 2, 0.5, 1, 2]


# Sets and SPECs


@pytest.fixture(params=["in memory", "lazy"])
def either(request, tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "set.parquet", make_images(10), [i % 4 for i in range(10)])
    return load(str(path), None, memory_limit=1 << 20 if request.param == "in memory" else 0)


def test_a_corrupted_set_differs_in_pixels_name_and_hash_alone(either):
    fogged = corrupted(either, "fog", 3)
    expected = corrupt(everything(either), "fog", 3, index=range(10))
    assert torch.equal(everything(fogged), expected)
    assert fogged.in_memory == either.in_memory
    assert (fogged.name, fogged.shape) == (f"{either.name}@fog:3", either.shape)
    assert torch.equal(fogged.labels, either.labels)
    assert torch.equal(fogged.index, either.index)
    assert fogged.class_names == either.class_names


def test_corrupted_subsets_are_subsets_of_the_corrupted_set(either):
    rows = torch.tensor([7, 0, 4])
    after = corrupted(either, "gaussian_noise", 2).subset(rows)
    before = corrupted(either.subset(rows), "gaussian_noise", 2)
    assert torch.equal(everything(after), everything(before))
    again = pickle.loads(pickle.dumps(after))
    assert torch.equal(everything(again), everything(after))


def test_the_hash_depends_on_all_that_decides_the_pixels(either):
    others = ImageSet.from_arrays(everything(either), either.labels)
    made = [("fog", 3, 0), ("fog", 4, 0), ("snow", 3, 0), ("fog", 3, 1)]
    hashes = [corrupted(either, kind, severity, seed=seed).hash for kind, severity, seed in made]
    hashes += [either.hash, corrupted(others, "fog", 3).hash]
    assert len({*hashes}) == len(hashes)
    assert corrupted(either, "fog", 3).hash == hashes[0]


def test_a_lazy_set_is_corrupted_as_one_in_memory_is(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "set.parquet", make_images(6), [0, 1] * 3)
    held, lazy = (load(f"{path}@snow:4", None, memory_limit=limit) for limit in (1 << 20, 0))
    assert not lazy.in_memory
    assert torch.equal(everything(held), everything(lazy))
    assert held.hash == lazy.hash


def test_a_spec_may_end_in_a_corruption(splits):
    folder, _ = splits
    plain, fogged = load(f"{folder}#test", None), load(f"{folder}#test@fog:3", "train")
    assert torch.equal(everything(fogged), everything(corrupted(plain, "fog", 3)))
    assert fogged.name == f"{folder}#test@fog:3"
    assert torch.equal(everything(load(f"{folder}@fog:3#test", None)), everything(fogged))
    assert len(load(f"{folder}/*.parquet@fog:3", "train")) == 10
    assert load_labels(f"{folder}@fog:3", "test")[0].tolist() == [0, 1, 2] * 2


def test_a_corruption_is_computed_at_the_size_that_the_net_sees():
    resized, fogged = load("digits", "test", img_size=16), load("digits@pixelate:5", "test", img_size=16)
    first = torch.arange(5)
    assert torch.equal(fogged.batch(first), corrupt(resized.batch(first), "pixelate", 5, index=first))


def test_an_at_in_the_name_of_existing_files_belongs_to_the_name(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "me@home" / "pets@fog:3-train.parquet", make_images(4), [0, 1] * 2)
    write_parquet(tmp_path / "me@home" / "pets@fog:3-test.parquet", make_images(2), [0, 1])
    folder = path.parent
    for spec, count in ((path, 4), (folder, 4), (f"{folder}#test", 2), (f"{folder}/pets@fog*", 4)):
        assert parse_spec(str(spec)).corruption is None
        assert len(load(str(spec), "train")) == count
    assert parse_spec(f"{folder}/pets@fog*#test")[1:] == (f"{folder}/pets@fog*", "test", None)
    assert parse_spec(f"{folder}#test@snow:2")[1:] == (str(folder), "test", "snow:2")
    assert parse_spec(f"{path}@snow:2")[1:] == (str(path), None, "snow:2")
    assert parse_spec("hub:owner/name#val@snow:2")[1:] == ("hub:owner/name", "validation", "snow:2")


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("digits@fgo:3", "data.source: got @fgo:3; .*try fog"),
        ("digits@gaussian:3", "try gaussian_noise"),
        ("digits@fog", "try @fog:3"),
        ("digits@fog:0", "got @fog:0"),
        ("digits@fog:6", "1 to 5"),
        ("digits@fog:x", "try @fog:3"),
        ("digits@", "inure list corruptions"),
    ],
)
def test_a_wrong_corruption_is_one_line_with_what_was_meant(spec, match):
    refused(match, spec)
    with pytest.raises(UserError, match=match):
        load_labels(spec, "train")


def test_images_that_cannot_be_corrupted_are_refused(tmp_path, write_parquet, make_images):
    path = write_parquet(tmp_path / "tiny.parquet", make_images(2, size=7), [0, 1])
    refused("data.source: got images of .*7.* to corrupt; allowed .*8 x 8", f"{path}@fog:3")
    for images, match in ((flat(0, channels=2), "channels"), (flat(0).float(), "uint8"), (flat(0, size=7), "8 x 8")):
        with pytest.raises(UserError, match=match):
            corrupt(images, "fog", 1, index=[0])
    with pytest.raises(UserError, match="severity: got 6"):
        corrupt(flat(0), "fog", 6, index=[0])
    with pytest.raises(UserError, match="kind: got frogs.*try frost"):
        corrupt(flat(0), "frogs", 1, index=[0])


def test_the_list_has_a_line_for_each(capsys):
    list_items("corruptions")
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == [*CORRUPTIONS]
    assert all(text.endswith(".") for _, text in lines)

"""Profiles: from text, from the model, and refused before a builder sees them."""

from dataclasses import replace

import pytest

from condinst_deploy.contract import Preprocessing
from condinst_deploy.engine_manifest import ShapeRange
from condinst_deploy.errors import ConfigError
from condinst_engines.profiles import default_profile, image_profile, profile_from_text, profiles_for
from tests.models import SLIM, manifest_of

TEXT = "1x3x320x320:1x3x800x1344:8x3x1344x1344"


@pytest.mark.parametrize("text", [TEXT, f"images={TEXT}"])
def test_a_profile_gives_the_sizes_input_the_same_batch(text: str) -> None:
    assert profile_from_text(text) == {
        "images": ShapeRange((1, 3, 320, 320), (1, 3, 800, 1344), (8, 3, 1344, 1344)),
        "image_sizes": ShapeRange((1, 2), (1, 2), (8, 2)),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1x3x320x320", "expected MIN:OPT:MAX"),
        ("1x3x320x320:1x3x800x1344", "expected MIN:OPT:MAX"),
        ("masks=1x3x32x32:1x3x32x32:1x3x32x32", "expected MIN:OPT:MAX"),
        ("1x3x320:1x3x800:8x3x1344", "expected MIN:OPT:MAX"),
        ("axbxcxd:1x3x32x32:1x3x32x32", "expected MIN:OPT:MAX"),
        ("1x4x320x320:1x4x800x1344:8x4x1344x1344", "not a batch of RGB pictures"),
        ("0x3x320x320:1x3x800x1344:8x3x1344x1344", "not a batch of RGB pictures"),
        ("1x3x320x320:1x3x800x1333:8x3x1344x1344", "1x3x800x1333 has a side that is not a multiple of 32"),
        ("1x3x0x320:1x3x800x1344:8x3x1344x1344", "multiple of 32"),
        ("8x3x1344x1344:1x3x800x1344:1x3x320x320", "8x3x1344x1344 is above 1x3x800x1344"),
        ("1x3x320x320:1x3x1344x800:8x3x1344x768", "1x3x1344x800 is above 8x3x1344x768"),
    ],
)
def test_an_impossible_profile_is_refused_with_its_text(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        profile_from_text(text)
    assert text in str(refused.value)


def test_the_default_covers_what_the_models_own_resizing_makes() -> None:
    profile = default_profile(replace(manifest_of(SLIM), preprocessing=Preprocessing()))
    assert profile == image_profile((1, 3, 320, 320), (1, 3, 800, 1344), (8, 3, 1344, 1344))


def test_the_default_of_a_model_for_small_pictures_is_small() -> None:
    small = replace(manifest_of(SLIM), preprocessing=Preprocessing(short_side=100, long_side=200))
    assert default_profile(small) == image_profile((1, 3, 128, 128), (1, 3, 128, 224), (8, 3, 224, 224))


def test_a_file_of_fixed_shapes_takes_no_profile() -> None:
    static = replace(manifest_of(SLIM), static_shape=(1, 128, 224))
    assert profiles_for(static, []) == ()
    with pytest.raises(ConfigError, match="fixed shape 1x128x224"):
        profiles_for(static, [TEXT])


def test_several_profiles_keep_their_order() -> None:
    other = "2x3x64x64:2x3x64x64:2x3x64x64"
    assert profiles_for(manifest_of(SLIM), [other, TEXT]) == (profile_from_text(other), profile_from_text(TEXT))


@pytest.mark.parametrize(
    ("shape", "inside"),
    [((1, 2, 3), True), ((4, 5, 6), True), ((0, 2, 3), False), ((4, 5, 7), False), ((1, 2), False)],
)
def test_a_range_covers_its_corners_and_nothing_outside(shape: tuple[int, ...], inside: bool) -> None:
    assert ShapeRange((1, 2, 3), (2, 3, 4), (4, 5, 6)).covers(shape) is inside

"""Profiles: from text, from the model, and refused before a builder sees them."""

from dataclasses import replace
from typing import Any

import pytest

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.contract.engine_manifest import ShapeRange
from condinst_deploy.errors import ConfigError
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.profiles import image_profile, model_profile, profile_from_text, profiles_for, remark_on
from tests.support.models import SLIM, SLIM_ADELAIDET, manifest_of

RECIPE = BuildRecipe()
MODELS = {"mmdet": manifest_of(SLIM), "adelaidet": manifest_of(SLIM_ADELAIDET)}
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
        (f"1x3x320x320:1x3x800x1344:1x3x320x{'9' * 30}", "expected MIN:OPT:MAX"),
        ("1x3x320:1x3x800:8x3x1344", "expected MIN:OPT:MAX"),
        ("axbxcxd:1x3x32x32:1x3x32x32", "expected MIN:OPT:MAX"),
        ("1x4x320x320:1x4x800x1344:8x4x1344x1344", "not a batch of RGB images"),
        ("0x3x320x320:1x3x800x1344:8x3x1344x1344", "not a batch of RGB images"),
        ("1x3x320x320:1x3x800x1333:8x3x1344x1344", "1x3x800x1333 has a side that is not a multiple of 32"),
        (f"1x3x320x320:1x3x800x1344:1x3x320x{2**64}", "a number above 2147483647"),
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
    profile = model_profile(replace(manifest_of(SLIM), preprocessing=Preprocessing()))
    assert profile == image_profile((1, 3, 32, 32), (8, 3, 800, 1344), (8, 3, 1344, 1344))


@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
@pytest.mark.parametrize(("short", "long"), [(800, 1333), (288, 288), (100, 200), (320, 640)])
def test_no_image_is_outside_the_models_own_profile(family: Any, short: int, long: int) -> None:
    preprocessing = Preprocessing(short_side=short, long_side=long, family=family)
    profile = model_profile(replace(MODELS[family], preprocessing=preprocessing))
    for height in (1, 7, 300, 480, 1080, 4000):
        for width in (1, 33, 299, 640, 1400, 1920, 3999):
            padded = ImageGeometry.of((height, width), preprocessing).padded
            assert profile["images"].covers((1, 3, *padded)), (height, width, padded)


def test_profiles_that_leave_out_the_models_own_sizes_are_remarked() -> None:
    model = replace(manifest_of(SLIM), preprocessing=Preprocessing(short_side=288, long_side=288))
    (narrow,) = profiles_for(model, RECIPE, ["1x3x288x288:1x3x288x288:1x3x288x288"])
    remark = remark_on(model, RECIPE, [narrow])
    assert remark is not None
    assert "4:3 (224x288)" in remark
    assert "1:1" not in remark
    assert remark_on(model, RECIPE, profiles_for(model, RECIPE)) is None


def test_batches_come_from_the_recipe_and_sides_from_the_model() -> None:
    profiles = profiles_for(manifest_of(SLIM), BuildRecipe(batches=("1:1:1", "2:8:16")))
    assert [p["images"].max for p in profiles] == [(1, 3, 224, 224), (16, 3, 224, 224)]
    assert profiles[1]["images"].opt == (8, 3, 128, 224)
    for text in ("1:2", "0:1:2", "3:2:1", "a:b:c"):
        with pytest.raises(ConfigError, match="the batches are"):
            profiles_for(manifest_of(SLIM), BuildRecipe(batches=(text,)))


def test_the_default_of_a_model_for_small_images_is_small() -> None:
    small = replace(manifest_of(SLIM), preprocessing=Preprocessing(short_side=100, long_side=200))
    assert model_profile(small) == image_profile((1, 3, 32, 32), (8, 3, 128, 224), (8, 3, 224, 224))


def test_a_file_of_fixed_shapes_takes_no_profile() -> None:
    static = replace(manifest_of(SLIM), static_shape=(1, 128, 224))
    assert profiles_for(static, RECIPE) == ()
    own = BuildRecipe(profiles=(TEXT,))
    assert profiles_for(static, own) == ()
    assert "not used: the file has fixed shapes" in str(remark_on(static, own, ()))
    assert remark_on(static, RECIPE, ()) is None
    with pytest.raises(ConfigError, match="fixed shape 1x128x224"):
        profiles_for(static, RECIPE, [TEXT])


def test_several_profiles_keep_their_order() -> None:
    other = "2x3x64x64:2x3x64x64:2x3x64x64"
    assert profiles_for(manifest_of(SLIM), RECIPE, [other, TEXT]) == (profile_from_text(other), profile_from_text(TEXT))


@pytest.mark.parametrize(
    ("shape", "inside"),
    [((1, 2, 3), True), ((4, 5, 6), True), ((0, 2, 3), False), ((4, 5, 7), False), ((1, 2), False)],
)
def test_a_range_covers_its_corners_and_nothing_outside(shape: tuple[int, ...], inside: bool) -> None:
    assert ShapeRange((1, 2, 3), (2, 3, 4), (4, 5, 6)).covers(shape) is inside

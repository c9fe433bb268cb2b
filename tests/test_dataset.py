"""The splits and the draw of training slices."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import stats
from torch.utils.data import DataLoader

from lib.config import Config
from lib.data import Cache, Patient
from lib.data.cache import CachedPatient
from lib.dataset import (
    PUBLISHED_VALIDATION,
    BrainData,
    Sampler,
    SliceDataset,
    folds,
    load_data,
    make_split,
)
from lib.transform import Geometry
from lib.utils import KitError
from tests.conftest import NAMES

SIZE = 32


# --- splits ---------------------------------------------------------------------------------------


def fake_data(names, labelled=True, images=None) -> BrainData:
    """Patients who exist as names only: enough to split them.

    ``images``: name -> what its images are; by default all differ.
    """
    geometry = Geometry((1, 1, 1), (0, 1, 0, 1, 0, 1), (0, 0), 16)
    records = {
        name: CachedPatient(
            name,
            (i, i + 1),
            0 if labelled else -1,
            1,
            str(i),
            slices=(f"pixels of {(images or {}).get(name, name)}",),
            geometry=geometry,
        )
        for i, name in enumerate(names)
    }
    nothing = Cache(
        records,
        [],
        np.zeros((0, 3, 16, 16), np.float16),
        np.zeros((0, 16, 16), np.uint8),
        np.zeros(0, np.uint8),
    )
    patients = {name: Patient(name, (), (), ()) for name in names}
    return BrainData("fake", Path("fake"), 16, "reference", patients, nothing)


def names_of(**institutions: int) -> list[str]:
    return sorted(
        f"TCGA_{place}_{number:04}_19990101"
        for place, n in institutions.items()
        for number in range(n)
    )


def all_110() -> list[str]:
    """110 names with the dataset's institutions, the ten published ones among them."""
    left = Counter(DU=45, HT=34, CS=16, FG=14, EZ=1) - Counter(
        name.split("_")[1] for name in PUBLISHED_VALIDATION
    )
    return sorted([*PUBLISHED_VALIDATION, *names_of(**left)])


def check(split, names) -> None:
    assert set(split.train).isdisjoint(split.validation)
    assert sorted(split.train + split.validation) == sorted(names)


def test_published_split_when_all_110_are_there():
    names = all_110()
    assert len(names) == 110
    split = make_split(fake_data(names))
    assert split.name == "published"
    assert set(split.validation) == set(PUBLISHED_VALIDATION)
    assert len(split.train) == 100
    check(split, names)


def test_published_validation_is_the_one_of_the_design():
    assert [name.removeprefix("TCGA_") for name in PUBLISHED_VALIDATION] == [
        "CS_4944_20010208",
        "CS_6667_20011105",
        "CS_6668_20011025",
        "DU_5851_19950428",
        "DU_6404_19850629",
        "DU_6408_19860521",
        "DU_7014_19860618",
        "HT_7616_19940813",
        "HT_7692_19960724",
        "HT_7879_19981009",
    ]


def test_without_the_published_patients_a_tenth_is_held_out():
    names = [name for name in all_110() if name not in PUBLISHED_VALIDATION]
    split = make_split(fake_data(names))
    assert split.name.startswith("holdout")
    assert len(split.validation) == 10
    check(split, names)
    with pytest.raises(KitError, match="TCGA_CS_4944_20010208"):
        make_split(fake_data(names), "published")


@pytest.mark.parametrize(
    ("patients", "held_out"),
    [(109, 10), (300, 10), (73, 7), (50, 5), (20, 5), (11, 5), (10, 5), (8, 4), (3, 1), (2, 1)],
)
def test_size_of_the_holdout(patients, held_out):
    names = names_of(DU=patients // 2, HT=patients - patients // 2)
    split = make_split(fake_data(names))
    assert len(split.validation) == held_out
    check(split, names)


def test_half_of_the_phantoms_is_held_out():
    names = [f"PHANTOM_{i:04}" for i in range(30)]
    assert len(make_split(fake_data(names)).validation) == 15
    assert len(make_split(fake_data([*names, "TCGA_DU_1_1"])).validation) == 5


def test_institutions_keep_their_share():
    names = names_of(DU=45, HT=34, CS=16, FG=14, EZ=1)
    split = make_split(fake_data(names), "holdout:20")
    held_out = Counter(name.split("_")[1] for name in split.validation)
    for place, n in Counter(name.split("_")[1] for name in names).items():
        assert abs(held_out[place] - 20 * n / 110) <= 1


@pytest.mark.parametrize("k", [2, 5, 7, 110])
def test_folds_score_each_patient_once(k):
    names = names_of(DU=45, HT=34, CS=16, FG=14, EZ=1)
    splits = folds(fake_data(names), k)
    assert len(splits) == k
    for split in splits:
        check(split, names)
    assert sorted(name for split in splits for name in split.validation) == names
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for place in ("DU", "HT", "CS", "FG"):
        shares = [
            sum(name.startswith(f"TCGA_{place}_") for name in split.validation) for split in splits
        ]
        assert max(shares) - min(shares) <= 1


def test_the_number_of_folds_is_any_whole_number():
    data = fake_data(names_of(DU=8))
    assert folds(data, np.int64(4)) == folds(data, 4)
    for k in ("4", 4.0, 1, 9):
        with pytest.raises(KitError, match="k must be a whole number from 2 to the number of pat"):
            folds(data, k)


@pytest.mark.parametrize("split", [make_split, folds])
def test_a_folder_is_not_loaded_data(split):
    with pytest.raises(KitError, match=r"'data/lgg'; use load_data\(folder\)"):
        split("data/lgg")


@pytest.mark.parametrize("read", ["record", "truth", "volume", "has_mask"])
def test_a_patient_who_is_not_there_is_named(read):
    data = fake_data(names_of(DU=2))
    with pytest.raises(KitError, match=r"fake: no patient nobody there; the first of 2 is TCGA_DU"):
        getattr(data, read)("nobody")
    with pytest.raises(KitError, match="no patient nobody there"):
        data.slices(["nobody"])
    with pytest.raises(KitError, match="patients is 'TCGA_DU_0000_19990101'; give a list of names"):
        data.slices("TCGA_DU_0000_19990101")


def test_folds_by_name_and_seed():
    data = fake_data(names_of(DU=20, HT=11))
    assert make_split(data, "fold-2-of-4") == folds(data, 4)[1]
    assert folds(data, 4) == folds(data, 4)
    assert folds(data, 4, seed=1) != folds(data, 4, seed=2)


VISITS = [
    *(f"TCGA_CS_{number:04}_{date}" for number in range(6) for date in (19990101, 20000101)),
    *(f"TCGA_DU_{number:04}_19990101" for number in range(8)),
]


def sides(split, names):
    return {name in split.validation for name in names}


@pytest.mark.parametrize(
    "spec", ["holdout", "holdout:3", *(f"fold-{i}-of-4" for i in (1, 2, 3, 4))]
)
def test_visits_of_a_person_are_on_one_side(spec):
    split = make_split(fake_data(VISITS), spec)
    assert sorted(split.train + split.validation) == sorted(VISITS)
    for number in range(6):
        pair = [name for name in VISITS if f"CS_{number:04}" in name]
        assert len(pair) == 2 and len(sides(split, pair)) == 1


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_same_images_under_several_names_are_on_one_side(k):
    names = names_of(CS=6, DU=6, HT=6)
    chain = [names[0], names[7], names[13]]  # the first two look alike, the last is a second visit
    other = chain[1].replace("19990101", "20010101")
    data = fake_data([*names, other], images={chain[0]: "same", chain[1]: "same", other: "x"})
    for split in folds(data, k):
        assert len(sides(split, [chain[0], chain[1], other])) == 1
    assert sum(len(split.validation) for split in folds(data, k)) == len(names) + 1


def test_a_number_of_eight_digits_is_no_date():
    names = [f"PAT_1234{number:04}" for number in range(20)]
    assert len(folds(fake_data(names), 5)[0].validation) == 4


def test_few_people_with_many_visits_can_be_split():
    visits = [f"TCGA_CS_000{person}_1999010{day}" for person in range(3) for day in range(1, 8)]
    split = make_split(fake_data(visits))
    assert {name[:12] for name in split.train}.isdisjoint(name[:12] for name in split.validation)
    phantoms = [f"PHANTOM_000{person}_1999010{day}" for person in range(2) for day in range(1, 4)]
    assert len(make_split(fake_data(phantoms)).validation) == 3


def test_people_who_are_there_twice_are_the_first_remark(kaggle_folder, tmp_path):
    names = (*NAMES[:4], NAMES[0].replace("1996", "1999"))
    root = kaggle_folder(names)
    copy = root / "TCGA_FG_0009_19990101"
    shutil.copytree(root / NAMES[1], copy)
    for file in copy.iterdir():
        file.rename(copy / file.name.replace(NAMES[1], copy.name))
    first = copy / f"{copy.name}_3_mask.tif"
    mask = tifffile.imread(first)
    mask[0, 0] = 255  # the images are the same, the masks differ by a voxel
    tifffile.imwrite(first, mask)
    remarks = load_data(root, SIZE).remarks
    assert remarks[0] == (
        f"{names[0]} = {names[4]}: visits of one person; a split keeps them on one side"
    )
    assert remarks[1] == (
        f"{NAMES[1]} = {copy.name}: the same images; a split keeps them on one side; remove all "
        f"but one"
    )


def test_a_person_on_both_sides_of_the_published_split_is_refused():
    names = [*PUBLISHED_VALIDATION, *names_of(ZZ=99), "TCGA_CS_4944_19990101"]
    with pytest.raises(KitError, match="TCGA_CS_4944_19990101 and TCGA_CS_4944_20010208 are one"):
        make_split(fake_data(names), "published")


def test_split_does_not_depend_on_the_order_of_the_folder():
    names = names_of(DU=20, HT=11)
    one, other = make_split(fake_data(names)), make_split(fake_data(names[::-1]))
    assert one.validation == other.validation
    assert set(one.train) == set(other.train)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("halves", "halves"),
        ("fold-6-of-5", "fold-6-of-5"),
        ("fold-0-of-5", "fold-0-of-5"),
        ("fold-1-of-1", "1 folds"),
        ("fold-1-of-9", "9 folds of 8"),
        ("holdout:8", "8 of 8"),
        ("holdout:0", "0 of 8"),
        ("holdout:-1", "holdout:-1"),
        ("", "''"),
        ("Published", "Published"),
    ],
)
def test_impossible_splits(spec, text):
    with pytest.raises(KitError, match=text) as caught:
        make_split(fake_data(names_of(DU=8)), spec)
    assert "\n" not in str(caught.value)


def test_one_patient_cannot_be_split():
    with pytest.raises(KitError):
        make_split(fake_data(names_of(DU=1)))


# --- slices ---------------------------------------------------------------------------------------


@pytest.fixture
def slices(tiny_kaggle) -> SliceDataset:
    return load_data(tiny_kaggle, SIZE).slices((NAMES[3], NAMES[1]))


def test_items_and_batches_agree(slices):
    images, masks = slices.batch(np.arange(len(slices)))
    assert images.shape == (len(slices), 3, SIZE, SIZE)
    assert masks.shape == (len(slices), 1, SIZE, SIZE)
    assert images.dtype == masks.dtype == torch.float32
    for index in (0, 3, len(slices) - 1, -1):
        image, mask = slices[index]
        assert torch.equal(image, images[index]) and torch.equal(mask, masks[index])
    assert len(slices) == sum(slices.lengths) == len(list(slices.areas))
    np.testing.assert_array_equal(slices.areas, masks.sum(dim=(1, 2, 3)).numpy())


def test_patients_keep_the_order_asked_for(slices, tiny_kaggle):
    data = load_data(tiny_kaggle, SIZE)
    parts = [
        data.slices((name,)).batch(np.arange(length))[0]
        for name, length in zip((NAMES[3], NAMES[1]), slices.lengths, strict=True)
    ]
    assert torch.equal(torch.cat(parts), slices.batch(np.arange(len(slices)))[0])
    masks = slices.volume_masks()
    assert [len(mask) for mask in masks] == slices.lengths
    np.testing.assert_array_equal(
        np.concatenate(masks), slices.batch(np.arange(len(slices)))[1][:, 0]
    )


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_dataloader_gives_the_same_slices(slices, batch_size):
    images, masks = slices.batch(np.arange(len(slices)))
    loader = DataLoader(slices, batch_size)
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    assert torch.equal(found[0], images) and torch.equal(found[1], masks)


def test_shuffling_dataloader_gives_each_slice_once(slices):
    images, _ = slices.batch(np.arange(len(slices)))
    loader = DataLoader(slices, 5, shuffle=True, generator=torch.Generator().manual_seed(1))
    found = torch.cat([part for part, _ in loader])
    assert not torch.equal(found, images)
    assert sorted(map(float, found.sum(dim=(1, 2, 3)))) == sorted(
        map(float, images.sum(dim=(1, 2, 3)))
    )


@pytest.mark.parametrize("k", [1, 2, 8])
def test_neighbours_are_further_channels_of_the_same_patient(tiny_kaggle, k):
    data, names = load_data(tiny_kaggle, SIZE), (NAMES[3], NAMES[1])
    images, masks = data.slices(names, k).batch(np.arange(8))
    volumes = [data.slices((name,)).batch(np.arange(4)) for name in names]
    assert torch.equal(masks, torch.cat([mask for _, mask in volumes]))
    steps = [0] + [step for distance in range(1, k + 1) for step in (-distance, distance)]
    for i in range(8):
        volume = volumes[i // 4][0]
        expected = torch.cat([volume[min(max(i % 4 + step, 0), 3)] for step in steps])
        assert torch.equal(images[i], expected)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("neighbours", [0, 2])
def test_moved_slices_are_the_same(tiny_kaggle, neighbours, device):
    data, names = load_data(tiny_kaggle, SIZE), (NAMES[3], NAMES[1])
    mapped, moved = (data.slices(names, neighbours) for _ in range(2))
    moved.move_to(torch.device(device))
    indices = np.array([5, 0, 0, 7, 3])
    for here, there in zip(mapped.batch(indices), moved.batch(indices), strict=True):
        assert there.device.type == device
        assert torch.equal(here, there.cpu())
    np.testing.assert_array_equal(
        np.concatenate(mapped.volume_masks()), np.concatenate(moved.volume_masks())
    )
    np.testing.assert_array_equal(mapped.areas, moved.areas)
    assert moved.nbytes == mapped.nbytes == 8 * (3 * 2 + 1) * SIZE**2


def test_nobodys_slices_can_be_moved(tiny_kaggle):
    nobody = load_data(tiny_kaggle, SIZE).slices(())
    nobody.move_to(torch.device("cpu"))
    assert len(nobody) == nobody.nbytes == 0


def test_without_neighbours_a_batch_is_what_the_cache_holds(slices, tiny_kaggle):
    data = load_data(tiny_kaggle, SIZE)
    rows = np.concatenate([np.arange(*data.record(name).rows) for name in (NAMES[3], NAMES[1])])
    np.testing.assert_array_equal(
        slices.batch(np.arange(8))[0], data.cache.images[rows].astype(np.float32)
    )


def test_past_the_end_is_an_index_error(slices):
    with pytest.raises(IndexError):
        slices[len(slices)]


# --- sampler --------------------------------------------------------------------------------------


class Areas:
    """What a Sampler needs to know of slices."""

    def __init__(self, *patients):
        self.patients = tuple(map(str, range(len(patients))))
        self.lengths = [len(areas) for areas in patients]
        self.areas = np.concatenate(patients).astype(int)


PATIENTS = ([0, 10, 40, 0, 10], [5, 0], [0, 0, 0], [7])


def draws(sampling="fresh", seed=1, epochs=1500, patients=PATIENTS):
    sampler = Sampler(Areas(*patients), Config(seed=seed, sampling=sampling))
    return np.concatenate([sampler.draw(epoch)[0] for epoch in range(epochs)])


def test_slices_are_drawn_with_area_plus_a_tenth_of_the_mean():
    expected = []
    for areas in PATIENTS:
        weights = (
            np.array([area + 0.1 * sum(areas) / len(areas) for area in areas])
            if any(areas)
            else np.ones(len(areas))
        )
        expected.extend(weights / weights.sum() / len(PATIENTS))
    found = np.bincount(draws(), minlength=len(expected))
    assert found.sum() == 1500 * len(expected)
    assert stats.chisquare(found, np.array(expected) * found.sum()).pvalue > 0.001
    assert (found > 0).all(), "slices without tumour are drawn too"


def test_default_draw_is_the_one_that_earlier_runs_saw():
    """Written down before background_weight and intensity existed."""
    indices, drawn = Sampler(Areas(*PATIENTS), Config(seed=1)).draw(0)
    assert indices.tolist() == [7, 10, 2, 10, 5, 5, 10, 5, 7, 1, 10]
    np.testing.assert_allclose(
        drawn.theta[0], [[0.99617022, 0.00772445, 0], [-0.00772445, 0.99617022, 0]], atol=1e-7
    )
    assert drawn.strengths.isnan().all()
    same, more = Sampler(Areas(*PATIENTS), Config(seed=1, intensity=0.5)).draw(0)
    assert torch.equal(more.theta, drawn.theta)
    np.testing.assert_array_equal(same, indices)
    assert (drawn.sources == torch.tensor([0, 1, 2])).all()
    _, more = Sampler(Areas(*PATIENTS), Config(seed=1, intensity=0.5, sequence_dropout=1.0)).draw(0)
    assert torch.equal(more.theta, drawn.theta)
    assert (more.sources != torch.tensor([0, 1, 2])).any(dim=1).all()


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (0.1, 6.06), (1.0, 33.3), (2.0, 44.4)])
def test_share_of_empty_slices(weight, share):
    """As the help of the field and the docstring of Sampler say, two of three slices being without
    tumour.
    """
    areas = Areas(*([0] * 20 + [10] * 6 + [40] * 4 for _ in range(5)))
    sampler = Sampler(areas, Config(background_weight=weight, sampling="fresh"))
    found = np.concatenate([sampler.draw(epoch)[0] for epoch in range(200)])
    assert (areas.areas[found] == 0).mean() * 100 == pytest.approx(share, abs=1)


def test_patients_are_drawn_alike_whatever_their_size():
    owner = np.repeat(np.arange(4), [len(areas) for areas in PATIENTS])
    found = np.bincount(owner[draws(seed=5)])
    assert stats.chisquare(found).pvalue > 0.001


def test_frozen_repeats_and_fresh_does_not():
    for sampling in ("frozen", "fresh"):
        sampler = Sampler(Areas([3] * 40), Config(seed=0, sampling=sampling))
        (first, drawn), (second, drawn_again) = sampler.draw(0), sampler.draw(1)
        same = np.array_equal(first, second) and torch.equal(drawn.theta, drawn_again.theta)
        assert same == (sampling == "frozen")
    assert np.array_equal(first, Sampler(Areas([3] * 40), Config(seed=0)).draw(7)[0])


def test_a_draw_depends_on_seed_and_epoch_alone():
    def sampler(seed):
        return Sampler(Areas(*PATIENTS), Config(seed=seed, sampling="fresh"))

    one = sampler(3)
    for epoch in range(5):
        one.draw(epoch)
    np.random.default_rng(0)
    torch.manual_seed(9)
    (later, later_drawn), (direct, direct_drawn) = one.draw(5), sampler(3).draw(5)
    np.testing.assert_array_equal(later, direct)
    assert torch.equal(later_drawn.theta, direct_drawn.theta)
    assert not torch.equal(sampler(4).draw(5)[1].theta, direct_drawn.theta)


def test_an_epoch_has_as_many_samples_as_slices(slices):
    indices, drawn = Sampler(slices, Config(seed=0, sampling="fresh")).draw(0)
    assert indices.shape == (len(slices),)
    assert drawn.theta.shape == (len(slices), 2, 3)
    assert indices.min() >= 0 and indices.max() < len(slices)


def test_fresh_sampling_sees_more_than_frozen():
    """The flaw of the published recipe: a third of the slices, over and over."""
    patients = [np.r_[np.zeros(20), np.full(10, 50)] for _ in range(20)]
    seen = {
        sampling: len(np.unique(draws(sampling, epochs=30, patients=patients)))
        for sampling in ("frozen", "fresh")
    }
    assert seen["frozen"] < 0.45 * 600
    assert seen["fresh"] > 0.9 * 600


def test_weights_follow_the_networks_masks(tiny_kaggle):
    """In the first patient, slices with more tumour are drawn more often."""
    slices = load_data(tiny_kaggle, SIZE).slices((NAMES[0],))
    sampler = Sampler(slices, Config(seed=0, sampling="fresh"))
    found = np.bincount(
        np.concatenate([sampler.draw(epoch)[0] for epoch in range(2000)]), minlength=len(slices)
    )
    expected = slices.areas + 0.1 * slices.areas.mean()
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=0.02)

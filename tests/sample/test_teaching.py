"""What a U-Net learns from a teacher: shares, pairs of rows, its own drawings. Tiny."""

from types import SimpleNamespace

import pytest
import torch

from sample_model import losses, teaching, train_diffusion


def test_a_teacher_says_most_of_the_noise_and_nothing_at_the_end():
    shares = [teaching.share_at(progress, 0.8, 0.7) for progress in (0.0, 0.5, 0.85, 1.0)]
    assert shares == pytest.approx([0.8, 0.8, 0.4, 0.0])


def test_a_large_layout_is_that_of_the_scene_at_half_its_size(random_folder):
    """A teacher that knows the noise of small latents and sees nothing in large ones: only the coarse picture is right, and only early."""
    torch.manual_seed(0)
    teacher, levels = teaching.Teacher(random_folder, torch.device("cpu")), losses.noise_levels()
    clean = torch.randn(2, 4, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2)
    times, noise = torch.tensor([950, 500]), torch.randn(2, 4, 32, 32)
    left = levels[times].view(-1, 1, 1, 1)
    noisy, asked = left.sqrt() * clean + (1 - left).sqrt() * noise, []

    def unet(seen, at, context):
        asked.append((tuple(seen.shape), at.tolist()))
        if seen.shape[-1] == 32:
            return SimpleNamespace(sample=torch.zeros_like(seen))
        kept = levels[at].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(seen - kept.sqrt() * torch.nn.functional.avg_pool2d(clean[:1], 2)) / (1 - kept).sqrt())

    teacher.unet = unet
    said = teacher.says(torch.zeros(2, 77, dtype=torch.long), losses.Noised(noisy, times, noise), overview=True)
    (large, at), (small, sooner) = asked
    assert large == (2, 4, 32, 32) and at == [950, 500] and small == (1, 4, 16, 16)
    ratio = (1 - levels) / levels
    assert ratio[sooner[0]].item() == pytest.approx(ratio[950].item() / 4, rel=0.02)
    assert torch.equal(said[1], torch.zeros(4, 32, 32))
    picture = (noisy[0] - (1 - left[0]).sqrt() * said[0]) / left[0].sqrt()
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(picture, 4), clean[0, :, ::4, ::4], atol=1e-3, rtol=1e-3)
    assert torch.equal(teacher.says(torch.zeros(2, 77, dtype=torch.long), losses.Noised(noisy, times, noise)), torch.zeros(2, 4, 32, 32))


def test_the_last_rows_of_a_batch_are_the_first_ones_again():
    torch.manual_seed(0)
    given = losses.add_noise(torch.randn(4, 4, 8, 8), losses.noise_levels(), pairs=2)
    for part in (given.noisy, given.times, given.noise):
        assert len(part) == 6 and torch.equal(part[4:], part[:2])
    left = losses.noise_levels()[given.times].view(-1, 1, 1, 1)
    clean = (given.noisy - (1 - left).sqrt() * given.noise) / left.sqrt()
    torch.testing.assert_close(clean[4:], clean[:2])
    assert given.times[:4].tolist() != sorted(given.times[:4].tolist())  # not always the least noisy rows


def test_guidance_is_compared_as_pictures_are_drawn():
    """Errors that both rows of a pair share count little; those in what a caption changes count as guidance multiplies them."""
    levels, times = losses.noise_levels(), torch.tensor([700, 400, 700, 400])
    given, wanted, off = losses.Noised(torch.zeros(4, 4, 2, 2), times, None, 2), torch.randn(4, 4, 2, 2), torch.randn(2, 4, 2, 2)

    def error(first, second):
        return losses.guided_error(wanted + torch.cat((first, second)), wanted, given, levels).item()

    alone = losses.noise_error(off, times[:2], levels, losses.GUIDED_EARLY_LIMIT).item()
    assert error(off, off) == pytest.approx(alone / losses.GUIDANCE**2, rel=1e-4)
    assert error(off, 0 * off) == pytest.approx(alone, rel=1e-4)
    assert error(0 * off, off) == pytest.approx(alone * (1 - 1 / losses.GUIDANCE) ** 2, rel=1e-4)


def test_a_step_of_an_own_drawing_is_a_step_of_the_sampler():
    """With the noise that is really there, each step leads to the same picture with less of that noise; at the end it is gone."""
    torch.manual_seed(0)
    levels = losses.noise_levels()
    drawings, picture = teaching.Drawings((8, 8), levels), torch.randn(4, 8, 8)
    drawings.begin("a red star")
    noise, steps = drawings.all[0].latents, 0
    time = drawings.all[0].time
    drawings.all[0].latents = levels[time].sqrt() * picture + (1 - levels[time]).sqrt() * noise
    while drawings.all:
        given, texts = drawings.take(1)
        assert texts == ["a red star"] and given.pairs == 1 and torch.equal(given.noisy[0], given.noisy[1])
        left = levels[given.times[0]]
        torch.testing.assert_close(given.noisy[0], left.sqrt() * picture + (1 - left).sqrt() * noise, atol=1e-4, rtol=1e-4)
        scale = drawings.taken[0].scale
        empty = torch.randn(4, 8, 8)  # of which guidance makes the noise again
        drawings.go_on(given, torch.stack(((noise - (1 - scale) * empty) / scale, empty)))
        steps += 1
        assert not drawings.all or 20 <= given.times[0] - drawings.all[0].time < 160
    assert 6 <= steps <= 48


def test_a_training_with_teachers_and_own_drawings_runs_and_learns_from_both(tmp_path, unet_arguments, monkeypatch):
    assert train_diffusion.main([*unet_arguments, str(tmp_path / "first"), "--steps", "1"]) == 0
    folder, seen = str(tmp_path / "first" / "model"), []
    of = train_diffusion.Lesson.of

    def kept(*given):
        found = of(*given)
        seen.append(set(found))
        return found

    monkeypatch.setattr(train_diffusion.Lesson, "of", kept)
    options = ["--teacher", folder, "--large-teacher", folder, "--thinned", "--steps", "12", "--save-every", "99"]
    assert train_diffusion.main([*unet_arguments, str(tmp_path / "second"), *options, "--own", "0.6"]) == 0
    on_own, on_scenes = {"reading", "guided", "own noise"}, {"reading", "guided", "noise", "labels"}
    assert on_own in seen and on_scenes in seen and all(names in (on_own, on_scenes) for names in seen)

"""An included system at full size, trained by its paper's recipe on data from files.

Miniature files in the published formats; the model, its recipe and the card are whole.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from memplan.data.loading import Loading
from memplan.models import find_model
from memplan.runner.training.fitting import Fitting, make_accelerator


def flamingo(model, folder, batch_size):
    from memplan.models.flamingo import data, miniature, module, prompts
    from memplan.recipes.flamingo import mixture, recipe

    miniature.write_sample(folder, 3 * batch_size)
    writer = prompts.Writer(model.config, miniature.byte_tokenizer())
    built = module.build(model.config, torch.float32, None)
    built.set_new_tokens(writer.eoc_id, writer.media_id)
    readings = {
        miniature.MMC4: data.reading_of_pages(model.config),
        miniature.PAIRS: data.reading_of_pairs(model.config),
    }
    pages, pairs = (
        data.Pages(folder / file, writer, model.config, reading)
        for file, reading in readings.items()
    )
    names = ("m3w", "align") if model.config.is_paper else ("mmc4", "laion")
    loading = Loading(batch_size=batch_size, num_workers=1, pin_memory=True)
    sources = mixture(
        model.config,
        dict(zip(names, (pages, pairs), strict=True)),
        dict.fromkeys(names, loading),
    )
    return built, recipe(built, model), sources, "bf16"


def mmicl(model, folder, batch_size):
    from memplan.models.mmicl import data, miniature, module, prompts
    from memplan.recipes.mmicl import recipe, source

    file = miniature.write_sample(folder, 3 * batch_size)
    language = model.config.text_config
    writer = prompts.Prompts(
        miniature.byte_tokenizer(), model.config.num_query_tokens, language.vocab_size
    )
    built = module.build(model.config, torch.bfloat16, None)
    built.set_placeholder(writer.placeholder_id)
    mic = data.Mic(file, writer, image_size=model.config.vision_config.image_size)
    loading = Loading(batch_size=batch_size, num_workers=1, pin_memory=True)
    made = recipe(built, model, "stage-2-qv", num_steps=10_000)
    return built, made, [source(mic, loading)], "no"


def pe_net(model, folder, batch_size):
    from memplan.models.pe_net import data, generated, module, visual_genome
    from memplan.recipes.pe_net import recipe, source, start_from_detector

    drawn = generated.draw_scenes(3 * batch_size, 0)
    splits = [("train", scene) for scene in drawn]
    visual_genome.write_visual_genome(folder, generated.VOCABULARY, splits)
    scenes = visual_genome.VisualGenome(folder, "train", num_validation=0)
    built = module.build(model.config, torch.float32, None)
    start_from_detector(built)
    training = data.TrainingScenes(scenes, model.config, model.defaults["image_size"])
    loading = Loading(batch_size=batch_size, num_workers=1, pin_memory=True)
    return built, recipe(built), [source(training, loading)], "no"


SYSTEMS = {"flamingo": flamingo, "mmicl": mmicl, "pe-net": pe_net}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    model = find_model(options.preset)
    with tempfile.TemporaryDirectory() as folder:
        prepare = SYSTEMS[model.source["model_type"]]
        with torch.device("cuda"):
            module, recipe, sources, precision = prepare(
                model, Path(folder), options.batch_size
            )
        accelerator = make_accelerator(len(sources), mixed_precision=precision)
        run = Fitting(accelerator, module, recipe, sources)
        for step in range(3):
            print(step, run.step(), flush=True)


if __name__ == "__main__":
    main()

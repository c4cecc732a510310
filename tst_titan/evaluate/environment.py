"""What must be set before lm-eval, datasets and transformers are imported: no network, no progress bars."""

import logging
import os
import sys
import warnings

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_CHATTY = ("lm_eval", "datasets", "transformers", "huggingface_hub", "torchtitan", "root")


def prepare_environment(*, network: bool = False, verbose: bool = False) -> None:
    """Keep the Hugging Face libraries off the network unless `network`, and quiet unless `verbose`.

    They read the environment once, when imported; where that has happened already, their own switches are set.
    """
    for name in _OFFLINE:
        os.environ[name] = "0" if network else "1"
    if "huggingface_hub" in sys.modules:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_OFFLINE = not network
    if "datasets" in sys.modules:
        import datasets.config

        datasets.config.HF_HUB_OFFLINE = not network
    # The tokenizer is called from one thread at a time here; its own threads would ignore the granted cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not verbose:
        os.environ["TQDM_DISABLE"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        # torchtitan's router asks for float32 autocast, which a CPU does not have and does not need.
        warnings.filterwarnings("ignore", message="In CPU autocast")
        for name in _CHATTY:
            logging.getLogger(None if name == "root" else name).setLevel(logging.ERROR)

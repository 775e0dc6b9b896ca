"""Options, state and the lazily loaded model."""

import sys
import types


class Options:
    """Attribute reads come from the stored values, then the defaults; an option nobody listed is an AttributeError."""

    def __init__(self, defaults):
        self.__dict__["data"] = {}
        self.__dict__["defaults"] = defaults

    def __getattr__(self, key):
        for table in (self.data, self.defaults):
            if key in table:
                return table[key]
        raise AttributeError(key)

    def __setattr__(self, key, value):
        self.data[key] = value

    def set(self, key, value, is_api=False, run_callbacks=True):
        if key not in self.defaults:
            raise KeyError(key)
        self.data[key] = value


class State:
    def __init__(self):
        self.begin("")

    def begin(self, job):
        self.job, self.job_no, self.job_count = job, 0, -1
        self.sampling_step = self.sampling_steps = 0
        self.interrupted = self.skipped = self.stopping_generation = False
        self.current_latent = None

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = 0

    def interrupt(self):
        self.interrupted = True

    def skip(self):
        self.skipped = True


opts = Options(
    {
        "batch_cond_uncond": True,
        "pad_cond_uncond": False,
        "skip_early_cond": 0.0,
        "s_min_uncond": 0.0,
        "s_min_uncond_all": False,
        "token_merging_ratio": 0.0,
        "token_merging_ratio_hr": 0.0,
        "upcast_attn": False,
        "sd_unet": "Automatic",
        "img2img_fix_steps": False,
    }
)
state = State()
cmd_opts = types.SimpleNamespace(api_auth=None, gradio_auth=None)
loaded_hypernetworks = []
# A style is what stands before its name in the prompt.
prompt_styles = types.SimpleNamespace(apply_styles_to_prompt=lambda prompt, styles: ", ".join([prompt, *styles]))


class _Shared(types.ModuleType):
    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()


sys.modules[__name__].__class__ = _Shared

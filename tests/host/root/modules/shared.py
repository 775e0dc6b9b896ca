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
        "infotext_styles": "Apply if any",
    }
)
state = State()
cmd_opts = types.SimpleNamespace(api_auth=None, gradio_auth=None)
loaded_hypernetworks = []


class Styles:
    """name -> (text, negative text). A text goes behind a prompt, or takes it in where it says {prompt}."""

    def __init__(self):
        self.styles = {"oil": ("oil", "")}

    def apply_styles_to_prompt(self, prompt, styles):
        return self._applied(prompt, styles, 0)

    def apply_negative_styles_to_prompt(self, prompt, styles):
        return self._applied(prompt, styles, 1)

    def _applied(self, prompt, styles, which):
        for text in (self.styles.get(name, ("", ""))[which] for name in styles):
            prompt = text.replace("{prompt}", prompt) if "{prompt}" in text else ", ".join(filter(None, (prompt.strip(), text.strip())))
        return prompt

    def extract_styles_from_prompt(self, prompt, negative):
        """Whatever looks like a style is taken out, the outermost first; of a style that takes the prompt in twice, nothing."""
        found, left = [], dict(self.styles)
        while True:
            for style, texts in left.items():  # noqa: B007 - used behind the loop
                inner = [self._inner(text, whole) for text, whole in zip(texts, (prompt, negative))]
                if any(texts) and None not in inner:
                    break
            else:
                return found[::-1], prompt, negative
            prompt, negative = inner
            found.append(style)
            del left[style]

    def _inner(self, text, whole):
        left, marked, right = text.strip().partition("{prompt}")
        if not marked:
            return whole.strip().removesuffix(left).removesuffix(", ") if whole.strip().endswith(left) else None
        whole = whole.strip()
        return whole[len(left) : len(whole) - len(right)] if whole.startswith(left) and whole.endswith(right) else None


prompt_styles = Styles()


class _Shared(types.ModuleType):
    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()


sys.modules[__name__].__class__ = _Shared

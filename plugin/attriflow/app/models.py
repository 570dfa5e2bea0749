"""The models that the app has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attriflow.app.jobs import Jobs
from attriflow.demo import MODELS
from attriflow.errors import InputError

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

DEMO = tuple(f"demo/{name}" for name in MODELS)


class Models:
    """Loads models by name and keeps the last few. One request at a time: the app's queue sees to that.

    `jobs`: what runs with them, for whom.
    """

    KEPT = 2

    def __init__(self, device: str = "auto", dtype: str | None = None, device_map: Any = None) -> None:
        """Load to this device, as this type, laid over devices by this map (see `attriflow.load_model`)."""
        self.device, self.dtype, self.device_map, self.jobs = device, dtype, device_map, Jobs()
        self._loaded: dict[str, AttributionModel] = {}

    def get(self, name: str | None) -> AttributionModel:
        """A model, loaded when it is not there; the one that was not used for longest makes room."""
        from attriflow.model import load_model
        from attriflow.tracking.quiet import quiet

        name = (name or "").strip()
        if not name:
            raise InputError("choose a model, or type a folder, a Hugging Face name or an MLflow model URI")
        model = self._loaded.pop(name, None)
        if model is None:
            while len(self._loaded) >= self.KEPT:
                del self._loaded[next(iter(self._loaded))]
            with quiet():
                model = load_model(name, device=self.device, dtype=self.dtype, device_map=self.device_map)
        self._loaded[name] = model
        return model


def describe(model: AttributionModel) -> str:
    """Architecture, size, device and type in one line."""
    millions = sum(p.numel() for p in model.model.parameters()) / 1e6
    kind = "encoder-decoder" if model.is_encoder_decoder else "decoder-only"
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{type(model.model).__name__} ({kind}), {millions:,.1f} million parameters, {dtype} on {model.device}"

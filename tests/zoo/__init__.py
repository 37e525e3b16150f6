"""Models of all kinds that nobody here wrote, built small with random weights, and models as users write them.

`ZOO` lists them; each makes a model, a loss and a batch of 8 examples, the same in every process. No dropout: what runs
on several workers is compared with one device.
"""

from zoo._decoders import DECODERS
from zoo._encoder_decoders import ENCODER_DECODERS
from zoo._encoders import ENCODERS
from zoo._experts import EXPERTS
from zoo._others import OTHERS
from zoo._own import OWN
from zoo._vision import VISION
from zoo._zoo_model import ZooModel as ZooModel

ZOO: tuple[ZooModel, ...] = (*DECODERS, *ENCODERS, *ENCODER_DECODERS, *VISION, *OTHERS, *EXPERTS, *OWN)


def zoo_model(name: str) -> ZooModel:
    """The model of a name."""
    return next(model for model in ZOO if model.name == name)

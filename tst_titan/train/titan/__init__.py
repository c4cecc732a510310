"""The only imports of torchtitan (0.3.0): the trainer, its components and the models they train.

Importing this package makes torchtitan usable on the machine at hand, which must happen before any other
module of torchtitan is imported (see `device`).
"""

from tst_titan.train.titan.device import DEVICE_TYPE as DEVICE_TYPE

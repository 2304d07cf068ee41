"""params.yaml as frozen models. It holds everything that changes a result."""

from stages.core.params.checks import load as load
from stages.core.params.model import Params as Params
from stages.core.params.model import PlugIn as PlugIn
from stages.core.params.model import Prepare as Prepare
from stages.core.params.model import Report as Report
from stages.core.params.model import Sample as Sample
from stages.core.params.model import Score as Score
from stages.core.params.model import Task as Task
from stages.core.params.model import Watch as Watch
from stages.core.training import Prior as Prior
from stages.core.training import Train as Train

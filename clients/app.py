"""What runs at an institution: one message in, one message out. Its home says what may happen."""

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtl.agreement import in_bundle
from fedtl.attend import attend
from fedtl.flower import answer
from fedtl.home.folder import LOCATION, Home

app = ClientApp()
BUNDLE = Path(__file__).parents[1]


@app.train()
def train(message: Message, context: Context) -> Message:
    return answer(
        message,
        lambda decode: attend(
            Home.open(Path(os.environ[LOCATION])), lambda: in_bundle(BUNDLE, context.run_config), decode
        ),
    )

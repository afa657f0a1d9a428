"""What runs at an institution: one message in, one message out. Its home says what may happen."""

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtl.deployment.plan import in_bundle
from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.home import LOCATION, Home
from fedtl.federation.flower import answer_message

app = ClientApp()
BUNDLE = Path(__file__).parents[1]


@app.train()
def train(message: Message, context: Context) -> Message:
    return answer_message(
        message,
        lambda decode: answer_round(
            Home.open(Path(os.environ[LOCATION])), lambda: in_bundle(BUNDLE, context.run_config), decode
        ),
    )

"""The ClientApp of a site. It answers one message, a round or the question after the last one; the site's folder decides what is allowed."""

import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtl.deployment.plan import agreement_file
from fedtl.deployment.site.answer_round import answer_round
from fedtl.deployment.site.answer_verdict import answer_verdict
from fedtl.deployment.site.home import SILO_FOLDER_VARIABLE, Home
from fedtl.federation.flower import answer_message
from fedtl.messages import Refusal, SiloVerdict, Task, Update

app = ClientApp()
BUNDLE = Path(__file__).parents[1]


@app.train()
def train(message: Message, context: Context) -> Message:
    def act(decode: Callable[[], Task]) -> Update | Refusal:
        home = Home.open(Path(os.environ[SILO_FOLDER_VARIABLE]))
        return answer_round(home, lambda: agreement_file(BUNDLE, context.run_config), decode)

    return answer_message(message, act)


@app.query()
def verdict(message: Message, context: Context) -> Message:
    def act(decode: Callable[[], Task]) -> SiloVerdict | Refusal:
        home = Home.open(Path(os.environ[SILO_FOLDER_VARIABLE]))
        return answer_verdict(home, lambda: agreement_file(BUNDLE, context.run_config), decode)

    return answer_message(message, act)

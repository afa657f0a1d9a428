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


def client_app(bundle: Path) -> ClientApp:
    """``bundle``: the folder in which Flower unpacked the app bundle."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def act(decode: Callable[[], Task]) -> Update | Refusal:
            return answer_round(_home(), lambda: agreement_file(bundle, context.run_config), decode)

        return answer_message(message, act)

    @app.query()
    def verdict(message: Message, context: Context) -> Message:
        def act(decode: Callable[[], Task]) -> SiloVerdict | Refusal:
            return answer_verdict(_home(), lambda: agreement_file(bundle, context.run_config), decode)

        return answer_message(message, act)

    return app


def _home() -> Home:
    return Home.open(Path(os.environ[SILO_FOLDER_VARIABLE]))

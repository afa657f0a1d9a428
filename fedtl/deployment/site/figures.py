"""A site's figures for Prometheus. They stay at the site, as its record does."""

import shutil
from datetime import datetime

from fedtl.deployment.certificates import days_left
from fedtl.deployment.metrics import Metric, Value
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.status import site_status


def site_metrics(home: Home) -> list[Metric]:
    """Return the figures of now. Raises LedgerDamaged where the record or the ledger was altered, and ConfigError."""
    status = site_status(home)
    contact = (
        [Value.of(datetime.fromisoformat(status.last_contact).timestamp())] if status.last_contact else []
    )
    budget = status.budget
    found = [
        Metric("updates_total", "updates that left", [Value.of(status.updates)], "counter"),
        Metric("sent_bytes_total", "bytes of all updates that left", [Value.of(status.bytes_out)], "counter"),
        Metric("refusals_total", "messages that were refused", [Value.of(status.refusals)], "counter"),
        Metric("last_contact_seconds", "time of the last message, in seconds since 1970", contact),
        Metric("gaps", "entries that the record or the ledger has lost", [Value.of(len(status.gaps))]),
        Metric("disk_free_bytes", "free bytes of the disk", [Value.of(shutil.disk_usage(home.path).free)]),
    ]
    if (path := home.at(home.settings.certificate)).is_file():
        days = [Value.of(days_left(path), certificate="authority")]
        found.append(Metric("certificate_days", "days until a certificate expires", days))
    if budget:
        labels = {"dataset": budget.dataset}
        found += [
            Metric("epsilon_spent", "epsilon of all studies that began", [Value(budget.spent, labels)]),
            Metric(
                "epsilon_left", "epsilon of the lifetime budget that is left", [Value(budget.left, labels)]
            ),
        ]
    return found

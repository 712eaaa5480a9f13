"""Alerts for models that are called although Cohere deprecates them, or has removed them.

Cohere's list of models says which are deprecated. It is read once a day, beside a request, if alerts are sent at all,
or if somebody looks at the models in the console.
"""

from gateway.observability.alerts import Alerts
from gateway.observability.record import RequestRecord
from gateway.upstream.model_catalog import ModelCatalog
from translators.core.model_names import PREFIX, SUCCESSORS

READ_SECONDS = 86_400.0


class DeprecatedModels:
    """Sees every model that is called."""

    def __init__(self, catalog: ModelCatalog, alerts: Alerts) -> None:
        self._catalog, self._alerts = catalog, alerts

    def see(self, record: RequestRecord) -> None:
        """Sends an alert, once, if the model of an admitted request is on its way out."""
        if not self._alerts.enabled or not record.model:
            return
        self._catalog.refresh(record.principal, READ_SECONDS)
        name = record.requested_model.removeprefix(PREFIX)
        if record.model in self._catalog.deprecated:
            self._report(record, record.model, f"Cohere deprecates the model '{record.model}', which is in use")
        elif name in SUCCESSORS and name != record.model:
            message = f"Cohere has removed the model '{name}', which is in use; '{record.model}' answers in its place"
            self._report(record, name, message)

    def _report(self, record: RequestRecord, model: str, message: str) -> None:
        key = record.principal.key
        details = {"key": key.key_alias or key.key_id} if key is not None else {}
        self._alerts.raise_once(
            ("deprecated_model", model), "deprecated_model", f"model {model}", message, None, **details
        )

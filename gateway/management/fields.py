"""THE TABLES OF FIELDS of keys, teams and end users, with LiteLLM's names: what is honoured, noted and refused.

The words of a verdict are explained in `field_table.py`, what a value may be in `values.py`. A table exists for each
kind of request: KEY_NEW, KEY_UPDATE, KEY_ROTATE, TEAM_NEW, TEAM_UPDATE, END_USER_NEW, END_USER_UPDATE; and for the
requests that only name records: KEY_NAME, KEY_NAMES, TEAM_NAME, TEAM_NAMES, END_USER_NAMES.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from gateway.management import values
from gateway.management.field_table import Field, FieldTable, Verdict, field, noted, refused
from gateway.management.values import Count, Counts, EndUserId, Money, References, Text, Texts

_LIMITS = (
    field("rpm_limit", Count, "requests in a minute"),
    field("tpm_limit", Count, "tokens in a minute"),
    field("max_parallel_requests", Count, "requests at once"),
    field("model_rpm_limit", Counts, "requests in a minute, by model", values.model_counts),
    field("model_tpm_limit", Counts, "tokens in a minute, by model", values.model_counts),
    field("max_budget", Money, "USD that may be spent"),
    field("soft_budget", Money, "USD from which on there is an alert"),
    field("budget_duration", str, "the window of `max_budget`, such as `1d` or `1mo`", values.budget_duration),
    field(
        "budget_limits",
        Annotated[list[values.BudgetLimit], Meta(max_length=20)],
        "further budgets, each with its window",
        values.budget_limits,
    ),
    field(
        "model_max_budget",
        Annotated[dict[Text, values.ModelLimit], Meta(max_length=values.MOST_ENTRIES)],
        "budgets by model: `budget_limit` and `time_period`",
        values.model_max_budget,
    ),
    field(
        "budget_fallbacks",
        Annotated[dict[Text, Texts], Meta(max_length=values.MOST_ENTRIES)],
        "models that answer where a model's own budget is spent",
        values.budget_fallbacks,
    ),
    field("blocked", bool, "refuses every request", null=False),
    field("metadata", dict[str, Any], "anything; an update replaces it as a whole", values.metadata),
)

_RIGHTS = (
    field("models", Texts, "names and globs such as `command-*`; an empty list allows all", values.models),
    field("aliases", dict[Text, Text], "names that mean other models", values.printable),
    field(
        "permissions",
        str | dict[str, str],
        "a preset (`none`, `inference`, `read-only`, `all`), or `off`, `read` or `full` by group or method",
        values.permissions,
    ),
    field("safety_mode", Literal["CONTEXTUAL", "STRICT"], "the weakest that a request gets"),
    field("allowed_ips", Texts, "addresses and networks that may call", values.addresses),
    field(
        "ledger_bodies",
        Literal["off", "errors", "all"],
        "whether the ledger stores the bodies of calls: of none, of those that fail, of all",
    ),
    field("tags", Texts, "labels for reports", values.printable),
)

# In this order they are options of the command line.
_KEY = (
    field("key_alias", Text, "a name; no two keys have the same", values.alias),
    field("role", Literal["", "viewer", "admin"], "what the key may manage; only the master key gives it", null=""),
    field("team_id", Text, "the key's team, which bounds what it may do", values.printable),
    field("user_id", Text, "a label: whose key it is", values.printable),
    field("shared", Literal["", "team"], "`team`: stored responses belong to the team", null=""),
    *_RIGHTS,
    *_LIMITS,
    field("duration", str, "how long the key lives from now on; `-1` is for ever", values.duration),
)

# Each ends a sentence: that of the note on a field without effect, or of the refusal.
_LABELS = "a label of LiteLLM's that has no meaning here"
_ELSEWHERE = "it belongs to the settings of a gateway"
_NO_MAIL = "no mails are sent"
_BUDGET_OBJECT = "write `max_budget`, `budget_duration` and the limits themselves"
_ROUTES = "`permissions` say what may be called"
_DAILY = "there are limits for a minute, and budgets for a day"
_BY_TAG = "limits are by key, team, end user and model"
_CONTENT = "the gateway checks no contents; `safety_mode` is Cohere's"
_OBJECTS = "there are no such objects here"
_ESTIMATES = "the estimate is the model's usual answer, or max_tokens"
_SPEND = "what is spent is what the ledger has"

_KEY_OF_LITELLM = (
    *noted(_LABELS, "organization_id", "project_id", "agent_id"),
    *noted(_NO_MAIL, "send_invite_email"),
    *noted(_ELSEWHERE, "config", "router_settings", "prompts"),
    *noted("keys are rotated with /key/regenerate", "auto_rotate", "rotation_interval"),
    *noted("requests over the budget are refused, not slowed down", "throttle_on_budget_exceeded"),
    *noted("update `max_budget` and change it back", "temp_budget_increase", "temp_budget_expiry"),
    *noted("limits are kept exactly", "rpm_limit_type", "tpm_limit_type", "soft_budget_cooldown"),
    *noted(_ESTIMATES, "default_estimated_output_tokens", "default_estimated_output_tokens_per_model"),
    *noted(_ELSEWHERE, "disable_global_guardrails", "enable_prompt_caching"),
    *refused(_ROUTES, "allowed_routes", "allowed_passthrough_routes", "denied_passthrough_routes"),
    # A key without a role manages nothing here, so these two kinds ask for nothing more.
    *refused(f"{_ROUTES}, `role` what may be managed", "key_type", neutral=(b'"default"', b'"llm_api"')),
    *refused("requests need no fields of theirs", "enforced_params", "allowed_cache_controls"),
    *refused(_DAILY, "tpd_limit"),
    *refused(_BY_TAG, "tag_rpm_limit", "tag_tpm_limit", "mcp_rpm_limit"),
    *refused(_BUDGET_OBJECT, "budget_id", "end_user_budget_id"),
    *refused(_CONTENT, "guardrails", "policies"),
    *refused(_OBJECTS, "access_group_ids", "object_permission", "allowed_vector_store_indexes"),
    # A new key has spent nothing, so a zero asks for nothing.
    *refused(_SPEND, "spend", neutral=(b"0", b"0.0")),
)

_TEAM = (
    field("team_alias", Text, "a name", values.printable),
    *_RIGHTS,
    *_LIMITS,
)

_TEAM_OF_LITELLM = (
    *noted(_LABELS, "organization_id", "members_with_roles", "members", "admins", "team_member_permissions"),
    *noted(_NO_MAIL, "send_team_invite_email", "send_invite_email"),
    *noted(_ELSEWHERE, "router_settings", "prompts", "logging", "secret_manager_settings", "disable_global_guardrails"),
    *noted("limits are kept exactly", "rpm_limit_type", "tpm_limit_type", "soft_budget_cooldown"),
    *noted(_ESTIMATES, "default_estimated_output_tokens", "default_estimated_output_tokens_per_model"),
    *refused("requests need no ids of theirs", "require_trace_id"),
    *refused("the gateway stores no files", "enforced_batch_output_expires_after", "enforced_file_expires_after"),
    *refused(_ROUTES, "allowed_passthrough_routes", "denied_passthrough_routes"),
    *refused(_DAILY, "tpd_limit"),
    *refused(_BY_TAG, "tag_rpm_limit", "tag_tpm_limit", "mcp_rpm_limit"),
    *refused(
        "give the keys of the team limits of their own",
        "team_member_budget",
        "team_member_budget_duration",
        "team_member_model_max_budget",
        "default_team_member_models",
        "team_member_key_duration",
        "team_member_rpm_limit",
        "team_member_tpm_limit",
    ),
    *refused(_BUDGET_OBJECT, "budget_id"),
    *refused(_CONTENT, "guardrails", "policies", "enforced_params"),
    *refused(_OBJECTS, "access_group_ids", "object_permission", "allowed_vector_store_indexes"),
    *refused(_SPEND, "spend", neutral=(b"0", b"0.0")),
)

_END_USER = (field("alias", Text, "a name", values.printable), *_LIMITS)

_END_USER_OF_LITELLM = (
    *noted("the request names the model", "default_model"),
    *noted("windows lie on the UTC calendar", "budget_reset_at"),
    *refused("give the keys that call for them a list of models", "models"),
    *refused("Cohere chooses the region", "allowed_model_region"),
    *refused(_DAILY, "tpd_limit"),
    *refused(_BUDGET_OBJECT, "budget_id"),
    *refused(_OBJECTS, "object_permission"),
    *refused(_SPEND, "spend", neutral=(b"0", b"0.0")),
)

_REFERENCE = field("key", Annotated[str, Meta(min_length=1, max_length=1024)], "secret, digest, id or alias")

# For names that are not alike enough in letters.
_HINTS = {"expires": "duration", "budget": "max_budget", "rpm": "rpm_limit", "tpm": "tpm_limit", "ips": "allowed_ips"}
_TEAM_HINTS = {**_HINTS, "name": "team_alias"}


def _table(rows: tuple[Field, ...], **options: Any) -> FieldTable:
    return FieldTable(rows, options.get("synonyms"), options.get("hints", _HINTS))


# Here `key` is a new secret, and in the tables below the name of a key: so it is read under another name.
KEY_NEW = _table((field("key", str, "a secret that exists already", values.secret, "secret"), *_KEY, *_KEY_OF_LITELLM))
KEY_UPDATE = _table((_REFERENCE, *_KEY, *_KEY_OF_LITELLM))
KEY_ROTATE = _table(
    (
        _REFERENCE,
        field("new_key", str, "a secret that exists already", values.secret),
        field("grace_period", str, "how long the old secret is accepted as well", values.duration),
        *_KEY,
        *_KEY_OF_LITELLM,
        *refused("the master key is a setting", "new_master_key"),
    )
)
KEY_NAME = _table((_REFERENCE,))
KEY_NAMES = _table(
    (
        field("keys", References, "secrets, digests, ids or aliases"),
        field("key_aliases", References, "aliases"),
    )
)

_TEAM_ID = field("team_id", Text, "an id of your own", values.printable)
_ALIASES = {"model_aliases": "aliases"}

TEAM_NEW = _table((_TEAM_ID, *_TEAM, *_TEAM_OF_LITELLM), synonyms=_ALIASES, hints=_TEAM_HINTS)
# The same fields: by `team_id` an update names the team.
TEAM_UPDATE = TEAM_NEW
TEAM_NAME = _table((_TEAM_ID,))
TEAM_NAMES = _table((field("team_ids", References, "ids"),))

_USER_ID = field("user_id", EndUserId, "as requests name the end user", values.printable)
_USER = {"end_user_id": "user_id"}

END_USER_NEW = _table((_USER_ID, *_END_USER, *_END_USER_OF_LITELLM), synonyms=_USER)
END_USER_UPDATE = END_USER_NEW
END_USER_NAMES = _table((field("user_ids", References, "ids"),), synonyms={"end_user_ids": "user_ids"})


def options_of(table: FieldTable) -> list[Field]:
    """Returns the fields that a table honours: those that documents and the command line show."""
    return [row for row in table.rows.values() if row.verdict is Verdict.HONOURED]

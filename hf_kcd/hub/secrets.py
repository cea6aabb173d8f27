"""Finds tokens, keys and passwords in text that is about to leave this machine."""

import os
import re
from functools import cache
from importlib import import_module

import huggingface_hub

# Services that runs are often logged in to, and that detect-secrets does not know.
_MORE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|github_pat_\w{20,}|wandb_v1_[A-Za-z0-9_]{20,}|"
    r"sk-(?:\w+-){0,2}[A-Za-z0-9]{20,}|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|gh[opsu]_[A-Za-z0-9]{30,})|://[^\s/@]{8,}@"
)
# detect-secrets' detectors of a fixed form. Its guesses by entropy and keyword would refuse checksums and class names.
_DETECTORS = {
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8


def holds_secret(text: str) -> bool:
    """Whether text holds a token or key of a known form, this machine's login, or a secret of the environment."""
    if _MORE.search(text) or any(secret in text for secret in _own_secrets()):
        return True
    return any(
        found for line in text.splitlines() for detector in _detectors() for found in detector.analyze_string(line)
    )


def _own_secrets() -> set[str]:
    named = (value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST)
    # A path or a switch is no secret, whatever its variable is called.
    secrets = {value for value in named if not value.startswith(("/", "~", ".")) and not value.isalpha()}
    return secrets | {token for token in (huggingface_hub.get_token(),) if token}


@cache
def _detectors() -> tuple:
    modules = {name: import_module(f"detect_secrets.plugins.{name}") for name in _DETECTORS}
    return tuple(getattr(modules[name], cls)() for name, cls in _DETECTORS.items())

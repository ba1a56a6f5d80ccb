"""A command line whose wrong words are refused in one sentence, with the nearest match, as every other wrong input is."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from training.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """As argparse's, which prints its usage and ends the process; those of its verbs are of this class, too."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse, and give back words that may be settings.

        Raises: UserError for an option that there is not.
        """
        chosen, rest = super().parse_known_args(args, namespace)
        if flag := next((word.partition("=")[0] for word in rest if word.startswith("-")), None):
            accepted = [option for option in self._option_string_actions if option.startswith("--")]
            raise UserError(f"{self.prog}: {flag}: no such option (accepted: {', '.join(accepted)}{did_you_mean(flag, accepted)})")
        return chosen, rest

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse all words.

        Raises: UserError for a word too many.
        """
        chosen, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"{rest[0]}: one word too many")
        return chosen

    def error(self, message: str) -> NoReturn:
        """Raises: UserError, with how it is called."""
        verbs = [verb for action in self._actions if isinstance(action, argparse._SubParsersAction) for verb in action.choices]
        how = f"verbs: {', '.join(verbs)}" if verbs else " ".join(self.format_usage().split())
        raise UserError(f"{self.prog}: {message} ({how})")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises: UserError for a verb, or a value of an option, that there is not."""
        if action.choices is None or value in action.choices:
            return
        accepted = [str(choice) for choice in action.choices]
        what = (
            "no such verb" if isinstance(action, argparse._SubParsersAction) else f"no value of {'/'.join(action.option_strings)}"
        )
        raise UserError(f"{self.prog}: {value}: {what} (accepted: {', '.join(accepted)}{did_you_mean(str(value), accepted)})")

"""What checks before the start have found: lines for what is fine, and for each obstacle the way around it."""

from training.errors import UserError
from training.text import escaped


class Findings:
    """Collects what the checks of one stack say."""

    def __init__(self, project: str, stack: str) -> None:
        self.project, self.stack = project, stack
        self.lines: list[str] = []
        self.obstacles: list[str] = []

    def fine(self, what: str) -> None:
        """Takes down what stands in nobody's way."""
        self.lines.append(escaped(what))  # it quotes what Google answers

    def warning(self, what: str) -> None:
        """Takes down what stands in nobody's way, and may not be meant."""
        self.fine(f"warning: {what}")

    def obstacle(self, what: str, step: str) -> None:
        """Takes down an obstacle, and the exact next step."""
        self.obstacles.append(f"{what}\n   next: {step}")

    def grant(self, role: str) -> str:
        """The command that gives a role in the project."""
        return f"gcloud projects add-iam-policy-binding {self.project} --member=user:YOUR-ACCOUNT --role={role}"

    def configure(self, key: str, value: object) -> str:
        """The command that changes a setting of the stack."""
        return f"pulumi config set incubator:{key} {value} --stack {self.stack}"

    def settle(self) -> list[str]:
        """The lines, if there is no obstacle.

        Raises: UserError with every obstacle.
        """
        if not self.obstacles:
            return self.lines
        numbered = "\n".join(f"{number}. {obstacle}" for number, obstacle in enumerate(self.obstacles, 1))
        raise UserError(f"stack {self.stack} cannot be brought up yet in project {self.project}; nothing was created:\n{numbered}")

"""A witness of served answers: users stay in their arm, arms have their flags, drafts are those of both rankings."""

from __future__ import annotations

from dataclasses import dataclass, field

from drills.experiments.answers import ARMS, Recorded
from services.gateway.search.order.interleaving import Coin
from sluice_client import Answer

_TEAMS = {"": 0, **{arm: team for team, arm in enumerate(ARMS, start=1)}}


@dataclass
class Witness:
    """Observations of the answers of one experiment."""

    experiment: str
    recorded: Recorded
    outside: int = 0
    """Answers that were no part of it: the gateway did not know of it yet, or its lease was over."""
    moved: int = 0
    """Answers in another arm than the user's first."""
    wrong_flags: int = 0
    """Answers that an arm's flags did not make."""
    drafts: int = 0
    """Interleaved answers."""
    other_drafts: int = 0
    """Those that are not the draft of the recorded rankings with the user's own coin."""
    _arms: dict[str, str] = field(default_factory=dict, repr=False)

    def saw(self, user: str, question: int, answer: Answer) -> None:
        """Take an answer."""
        exposure = next((one for one in answer.experiments if one.experiment == self.experiment), None)
        if exposure is None:
            self.outside += 1
        elif exposure.arm:
            self.moved += self._arms.setdefault(user, exposure.arm) != exposure.arm
            self.wrong_flags += answer.features.lexical != ARMS[exposure.arm].lexical
        else:
            coin = Coin(f"experiment/{self.experiment}", user, self.recorded.collection.text(question).encode())
            found = [result.passage.id for result in answer.results], [_TEAMS[one.team] for one in answer.results]
            self.drafts += 1
            self.other_drafts += found != self.recorded.drafted(question, coin)

    @property
    def problems(self) -> list[str]:
        """Readable problems; none if all is well."""
        counts = {
            "answers in another arm than before": self.moved,
            "answers with other flags than their arm's": self.wrong_flags,
            "interleaved answers that are another draft": self.other_drafts,
        }
        return [f"{self.experiment}: {count} {words}" for words, count in counts.items() if count]

"""The organiser's choices: re-entry, kinds of tickets, gates, force; each judged, logged and told alike."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.models import Direction, Scan
from tests.factories import NOW, admit, attempt, issue, make_device, make_event, rules_of, verdicts
from tickets import admission
from tickets.models import Event, Gate, Kind, Ticket
from tickets.rules import REASONS, RULES, Case, EventRules, GateRules, KindRules, Reentry, TicketState, judge

ENTRY, EXIT = Direction.ENTRY, Direction.EXIT


def walk(device, ticket, *directions):
    scans = [attempt(device, ticket.code, f"n{place}", way) for place, way in enumerate(directions)]
    return [reason for scan in scans for _, reason, _ in verdicts(admit(device, scan))]


@pytest.mark.parametrize(
    ("policy", "reasons"),
    [
        ("never", [None, "already_admitted", None, "already_admitted", "not_inside"]),
        ("after_exit", [None, "already_admitted", None, None, None]),
        ("always", [None, None, None, None, None]),
    ],
)
def test_a_ticket_enters_again_as_the_policy_has_it(device, ticket, policy, reasons):
    Event.objects.update(reentry=policy)

    assert walk(device, ticket, ENTRY, ENTRY, EXIT, ENTRY, EXIT) == reasons
    assert walk(make_device(device.gate.event)[0], ticket) == []
    row = Ticket.objects.get()
    assert (row.admitted_at, row.admitted_gate_id, row.inside) == (NOW, device.gate_id, False)


def test_whoever_comes_again_is_told_apart_in_the_log(device, ticket):
    Event.objects.update(reentry="after_exit")

    walk(device, ticket, ENTRY, EXIT, ENTRY)

    assert list(Scan.objects.order_by("id").values_list("direction", "reentry")) == [
        ("entry", False),
        ("exit", True),
        ("entry", True),
    ]


def test_within_one_batch_a_ticket_goes_in_out_and_in_again(device, ticket):
    Event.objects.update(reentry="after_exit")

    answers = admit(
        device,
        *(
            attempt(device, ticket.code, nonce, way)
            for nonce, way in zip("cba", [ENTRY, EXIT, ENTRY], strict=True)
        ),
    )

    assert [reason for _, reason, _ in verdicts(answers)] == [None, None, None]
    assert Ticket.objects.get().inside
    # Rows are written by nonce; when they happened still tells which was last.
    assert list(Scan.objects.order_by("happened_at").values_list("nonce", flat=True)) == ["c", "b", "a"]


def test_a_kind_has_times_of_its_own(device, event):
    Kind.objects.create(event=event, name="VIP", admits_from=event.doors_at - timedelta(hours=1))
    Kind.objects.create(event=event, name="late", admits_from=NOW, admits_until=NOW + timedelta(hours=1))
    Kind.objects.create(event=event, name="standard")
    tickets = {kind: issue(event, 4, kind=kind) for kind in ("VIP", "late", "standard")}
    times = [event.doors_at - timedelta(minutes=1), event.doors_at, NOW, NOW + timedelta(hours=2)]

    reasons = {
        kind: [
            verdicts(admit(device, attempt(device, ticket.code, f"{kind}{place}"), now=now))[0][1]
            for place, (ticket, now) in enumerate(zip(codes, times, strict=True))
        ]
        for kind, codes in tickets.items()
    }

    assert reasons == {
        "VIP": [None, None, None, None],
        "late": ["too_early", "too_early", None, "too_late"],
        "standard": ["too_early", None, None, None],
    }


def test_a_gate_admits_the_kinds_that_it_is_for_and_lets_everybody_out(event):
    vip = Kind.objects.create(event=event, name="VIP")
    Kind.objects.create(event=event, name="standard")
    north, south = make_device(event, gate="North")[0], make_device(event, gate="South")[0]
    north.gate.kinds.add(vip)
    special, plain = issue(event, kind="VIP")[0], issue(event, kind="standard")[0]

    answers = [
        *admit(north, attempt(north, plain.code, "1"), attempt(north, special.code, "2")),
        *admit(south, attempt(south, plain.code, "3")),
        *admit(north, attempt(north, plain.code, "4", EXIT)),
    ]

    assert [reason for _, reason, _ in verdicts(answers)] == ["wrong_gate", None, None, None]
    assert answers[0].message == "This gate does not admit this kind of ticket."


def force(device, code, nonce, **more):
    return attempt(device, code, nonce, force_reason="The family was split", **more)


def test_a_supervisor_overrides_what_is_refused_and_the_log_says_what_and_why(device, ticket):
    admit(device, attempt(device, ticket.code, "a"))

    [answer] = admit(device, force(device, ticket.code, "b"), now=NOW + timedelta(minutes=1))

    assert verdicts([answer]) == [("admitted", None, False)]
    assert answer.message == "Admitted by the supervisor, in spite of: Already admitted."
    assert answer.stored.admitted_at == NOW
    assert Scan.objects.values_list("verdict", "reason", "forced_over", "force_reason", "reentry").get(
        nonce="b"
    ) == (
        "admitted",
        None,
        "already_admitted",
        "The family was split",
        True,
    )


def test_what_needed_no_force_was_not_forced(device, ticket):
    [answer] = admit(device, force(device, ticket.code, "a"))

    assert answer.message == "Admitted."
    assert Scan.objects.values_list("forced_over", "force_reason").get() == (None, "The family was split")


@pytest.mark.uncounted
@pytest.mark.parametrize(("field", "reason"), [("voided_at", "void"), ("transferred_at", "transferred")])
def test_a_forced_first_entry_counts_as_the_first(device, ticket, field, reason):
    Ticket.objects.update(**{field: NOW})

    admit(device, force(device, ticket.code, "a"))

    assert Ticket.objects.values_list("admitted_at", "inside").get() == (NOW, True)
    assert walk(device, ticket, ENTRY) == [reason]


def test_nobody_forces_in_what_is_no_ticket_of_this_event(device):
    other = issue(make_event())[0]

    answers = admit(device, force(device, "rubbish", "a"), force(device, other.code, "b"))

    assert verdicts(answers) == [("refused", "unreadable", False), ("refused", "wrong_event", False)]
    assert not Scan.objects.exclude(forced_over=None).exists()


def test_a_gate_that_the_rules_do_not_know_yet_admits_all(device, event, ticket):
    rules = rules_of(event)
    new = make_device(event, gate="Opened a moment ago")[0]

    [first] = admission.admit(rules=rules, scans=[attempt(new, ticket.code, "a")], now=NOW)
    [second] = admission.admit(rules=rules_of(event), scans=[attempt(device, ticket.code, "b")], now=NOW)

    assert (first.stored.verdict, first.stored.gate) == ("admitted", None)
    assert second.message == "Already admitted at 21:30, Opened a moment ago."


MOMENTS = st.integers(-3, 3).map(lambda hours: NOW + timedelta(hours=hours))
TICKETS = st.builds(
    TicketState,
    ticket_id=st.just(1),
    holder=st.just("Ada"),
    kind=st.sampled_from(["VIP", "standard", ""]),
    voided_at=st.none() | MOMENTS,
    transferred_at=st.none() | MOMENTS,
    admitted_at=st.none() | MOMENTS,
    admitted_gate_id=st.just(1),
    inside=st.booleans(),
)
EVENTS = st.builds(
    EventRules,
    event_id=st.just(1),
    doors_at=MOMENTS,
    ends_at=MOMENTS,
    zone=st.just(ZoneInfo("UTC")),
    reentry=st.sampled_from(Reentry.values),
    kinds=st.dictionaries(
        st.sampled_from(["VIP", "standard"]), st.builds(KindRules, st.none() | MOMENTS, st.none() | MOMENTS)
    ),
    gates=st.dictionaries(
        st.integers(1, 2),
        st.builds(
            GateRules,
            st.just("G"),
            st.none() | st.frozensets(st.sampled_from(["VIP", "standard"]), min_size=1),
        ),
    ),
)
CASES = st.builds(
    Case,
    ticket=st.none() | TICKETS,
    of_other_event=st.booleans(),
    direction=st.sampled_from(Direction.values),
    gate_id=st.integers(1, 2),
    rules=EVENTS,
    at=MOMENTS,
)


@given(CASES)
def test_the_first_rule_that_holds_refuses_and_no_other(case):
    """Told once more in plain words, and compared for whatever may be."""
    ticket, rules, entry = case.ticket, case.rules, case.direction == "entry"
    wrong = []
    if case.of_other_event:
        wrong = ["wrong_event"]
    elif ticket is None:
        wrong = ["unknown_ticket"]
    elif entry:
        kind = rules.kinds.get(ticket.kind)
        opens = (kind and kind.admits_from) or rules.doors_at
        closes = (kind and kind.admits_until) or rules.ends_at
        gate = rules.gates.get(case.gate_id)
        may_again = {"never": ticket.admitted_at is None, "after_exit": not ticket.inside, "always": True}
        checks = {
            "void": ticket.voided_at is not None,
            "transferred": ticket.transferred_at is not None,
            "too_early": case.at < opens,
            "too_late": case.at > closes,
            "wrong_gate": gate is not None and gate.kinds is not None and ticket.kind not in gate.kinds,
            "already_admitted": not may_again[rules.reentry],
        }
        wrong = [reason for reason, holds in checks.items() if holds]
    elif not ticket.inside:
        wrong = ["not_inside"]

    assert judge(case) == (min(wrong, key=REASONS.index) if wrong else None)


def test_every_rule_has_its_place_in_the_order():
    assert REASONS[3:] == tuple(reason for reason, _ in RULES)


def test_the_gates_of_other_events_are_no_business_of_this_one(event):
    gate = Gate.objects.create(event=event, name="North")
    Gate.objects.create(event=make_event(), name="South")
    kinds = [Kind.objects.create(event=event, name=name) for name in ("A", "B")]
    gate.kinds.set(kinds)

    assert rules_of(event).gates == {gate.id: GateRules("North", frozenset({"A", "B"}))}

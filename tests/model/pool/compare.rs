//! The comparison of machine and oracle: events, deadlines, reasons and figures.

use super::Pair;
use super::oracle::{OracleEvent, OracleGrant, State, Tally};
use leasehold_core::pool::{self, Grant, MemberId, WaiterId};
use leasehold_core::time::Tick;

impl Pair {
    /// Gives a new lease the next name.
    fn grant(&mut self, grant: Grant) -> OracleGrant {
        assert!(grant.fence > self.fence, "fences grow");
        self.fence = grant.fence;
        self.leases.push(grant.lease);
        let waited =
            u64::try_from(grant.waited.as_nanos()).expect("a wait is within a clock's range");
        OracleGrant {
            lease: self.leases.len() - 1,
            member: self.member(grant.member),
            waited,
            expires: grant.expires.map(Tick::as_nanos),
        }
    }

    pub(super) fn member(&self, id: MemberId) -> usize {
        let name = self.members.iter().position(|one| *one == id);
        name.expect("every member has a name")
    }

    fn waiter(&self, id: WaiterId) -> usize {
        let name = self.waiters.iter().position(|one| *one == id);
        name.expect("every waiter has a name")
    }

    fn compare_events(&mut self) {
        self.compare_events_with(None);
    }

    /// The same where a command itself granted a lease, after a number of queued ones; that lease's name.
    pub(super) fn compare_events_with(
        &mut self,
        mut own: Option<(usize, Grant)>,
    ) -> Option<OracleGrant> {
        let mut got = Vec::new();
        let (mut grants, mut named) = (0, None);
        for event in core::mem::take(&mut self.told) {
            got.push(match event {
                pool::Event::Granted { waiter, grant } => {
                    if let Some((_, first)) = own.take_if(|(due, _)| *due == grants) {
                        named = Some(self.grant(first));
                    }
                    grants += 1;
                    OracleEvent::Granted(self.waiter(waiter), self.grant(grant))
                }
                pool::Event::TimedOut { waiter, .. } => OracleEvent::TimedOut(self.waiter(waiter)),
                pool::Event::Closed { waiter } => OracleEvent::Closed(self.waiter(waiter)),
                pool::Event::PinnedMemberRemoved { waiter } => {
                    OracleEvent::PinnedMemberRemoved(self.waiter(waiter))
                }
                pool::Event::Expired { lease, member } => {
                    let name = self.leases.iter().position(|one| *one == lease);
                    let name = name.or_else(|| self.orphans.pop_front());
                    let name = name.expect("every lease has a name");
                    assert_eq!(self.member(member), self.oracle.leases[name].member);
                    OracleEvent::Expired(name)
                }
                pool::Event::Drained { member } => OracleEvent::Drained(self.member(member)),
                pool::Event::Removed { member, payload } => {
                    assert_eq!(self.member(member), payload);
                    OracleEvent::Removed(payload)
                }
                pool::Event::Probe { member, probe } => {
                    let name = self.member(member);
                    let known = self.oracle.members[name].latest_probe;
                    self.probes.push((probe, name, known));
                    OracleEvent::Probe(name)
                }
                pool::Event::Changed { member, change } => {
                    OracleEvent::Changed(self.member(member), change)
                }
            });
        }
        let expected = core::mem::take(&mut self.oracle.events);
        let got = by_member(got);
        assert_eq!(got, by_member(expected));
        self.agreed.extend(got);
        named.or_else(|| own.map(|(_, grant)| self.grant(grant)))
    }

    pub(super) fn compare(&mut self) {
        self.compare_events();
        assert!(self.oracle.hints.is_empty(), "the machine grants more");
        assert_eq!(self.machine.poll_timeout(), self.oracle.poll_timeout());
        if let Some((ask, pin)) = self.asked {
            let request = self.request(ask, pin, None);
            let got = self.machine.explain(&request);
            let got: Vec<_> = got.map(|(id, reason)| (self.member(id), reason)).collect();
            let mut expected = self.oracle.explain(ask, pin);
            expected.sort_by_key(|(name, _)| self.members[*name]);
            assert_eq!(got, expected);
        }
        let stats = self.machine.stats();
        let total = stats.total;
        let live: u64 = stats
            .members
            .iter()
            .map(|one| u64::from(one.in_flight))
            .sum();
        let tally = Tally {
            granted: total.granted,
            released: total.ok + total.failed + total.throttled + total.unknown + total.not_sent,
            expired: total.expired,
            refused: stats.waiting.refused,
            timed_out: stats.waiting.timed_out,
            cancelled: stats.waiting.cancelled,
            waited: u64::try_from(stats.waited.sum().as_nanos()).unwrap_or(u64::MAX),
        };
        assert_eq!(tally, self.oracle.tally);
        assert_eq!(tally.granted, tally.released + tally.expired + live);
        assert_eq!(stats.held.count(), tally.granted - live);
        assert_eq!(stats.waited.count(), tally.granted);
        let waiting = self.oracle.waiting().count();
        assert_eq!(stats.waiting.waiting as usize, waiting);
        for figures in &stats.members {
            let member = &self.oracle.members[self.member(figures.member)];
            assert_eq!(figures.counts.calls(), member.calls);
            assert_eq!(figures.in_flight, member.in_flight);
        }
        for flow in &stats.flows {
            let waiting = self.oracle.waiting();
            let waiting = waiting.filter(|(_, one)| one.ask.flow() == flow.flow);
            assert_eq!(flow.waiting as usize, waiting.count());
            let leases = self.oracle.leases.iter();
            let held = leases.filter(|one| one.live && one.flow == flow.flow);
            assert_eq!(flow.held as usize, held.count());
        }
        let there = self
            .oracle
            .members
            .iter()
            .filter(|one| one.state != State::Gone);
        assert_eq!(stats.members.len(), there.count());
    }
}

/// Sorts adjacent events of members by member: the order of timers that are due together is open.
fn by_member(mut events: Vec<OracleEvent>) -> Vec<OracleEvent> {
    let member = |event: &OracleEvent| match event {
        OracleEvent::Probe(member) | OracleEvent::Changed(member, _) => Some(*member),
        OracleEvent::Granted(..)
        | OracleEvent::TimedOut(_)
        | OracleEvent::Closed(_)
        | OracleEvent::PinnedMemberRemoved(_)
        | OracleEvent::Expired(_)
        | OracleEvent::Drained(_)
        | OracleEvent::Removed(_) => None,
    };
    for run in events.chunk_by_mut(|one, other| member(one).is_some() && member(other).is_some()) {
        run.sort_by_key(member);
    }
    events
}

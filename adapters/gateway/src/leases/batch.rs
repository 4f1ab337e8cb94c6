//! Several calls in one.

use super::acquire::Granted;
use super::undelivered::Undelivered;
use super::{Reply, Session, bad_request};
use futures_util::future::join_all;
use leasehold_protocol::Refusal;
use leasehold_protocol::lease::{LeaseBatch, LeaseBatchAnswer, LeaseError, MAX_LEASES, Part};

impl Session<'_> {
    /// Does the parts of a batch in the order of their kinds; requests wait side by side.
    pub(super) async fn batch(&self, batch: LeaseBatch) -> Result<Reply, Refusal> {
        let parts = [
            batch.arrived.len(),
            batch.renew.len(),
            batch.release.len(),
            batch.acquire.len(),
        ];
        if parts.iter().sum::<usize>() > MAX_LEASES {
            return Err(bad_request(format!(
                "a batch has at most {MAX_LEASES} parts"
            )));
        }
        let arrived = batch.arrived.iter().map(|id| part(self.arrived(id)));
        let arrived = arrived.collect();
        let renewed = batch.renew.iter().map(|id| part(self.renew(id)));
        let renewed = renewed.collect();
        let released = batch.release.iter();
        let released = released.map(|one| part(self.release(&one.lease, &one.release)));
        let released = released.collect();
        let asked = batch.acquire.into_iter().map(|asked| self.acquire(asked));
        let (mut acquired, mut undelivered) = (Vec::new(), Vec::new());
        for granted in join_all(asked).await {
            acquired.push(part(granted.map(|granted| {
                let Granted {
                    leases,
                    undelivered: of_part,
                } = granted;
                undelivered.push(of_part);
                leases
            })));
        }
        let answer = LeaseBatchAnswer {
            arrived,
            renewed,
            released,
            acquired,
        };
        Ok(Reply {
            undelivered: Some(Undelivered::join(undelivered)),
            ..Reply::of(&answer)
        })
    }
}

fn part<T>(done: Result<T, Refusal>) -> Part<T> {
    match done {
        Ok(done) => Part::Done(done),
        Err(refusal) => Part::Refused(LeaseError::of(&refusal)),
    }
}

//! The calls that a batch makes and the keys that they share, for a plan of it.
//!
//! Invariant: a call is listed for each task, in the order in which workers take them.

use crate::batch::Batch;
use crate::bits::Bits;
use crate::error::BatchError;
use crate::worker::FIRST_OUTPUT;
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use leasehold_plan::{
    Call, CallTime, Capacity, NarrowStart, Pace, PlanError, PlannedMember, Prediction, Tokens,
    Workload, WorkloadError,
};
use leasehold_protocol::{estimate_output, estimate_prompt};
use std::path::Path;

/// A plan of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DryRun {
    /// The keys and their limits.
    pub capacity: Capacity,
    /// The figures of the tasks that are yet to be run; `None` if there are none.
    pub prediction: Option<Prediction>,
}

impl Batch {
    /// Lists the calls of all tasks with their tokens: those of the prompt as counted, and of the answer as given, else the
    /// most that its request allows.
    ///
    /// A review reads the answer besides the item.
    ///
    /// # Errors
    /// If there are no models, an item can't be read, or a request can't be built.
    pub fn calls(&self, completion: Option<u64>) -> Result<Vec<Call>, BatchError> {
        if self.models.is_empty() {
            return Err(BatchError::NoModels);
        }
        let mut all = Bits::new(self.number_of(self.items.len(), 0));
        for index in 0..self.items.len() {
            for (at, column) in self.columns.iter().enumerate() {
                if column.is_asked {
                    all.insert(self.number_of(index, at));
                }
            }
        }
        self.calls_of(&all, completion)
    }

    /// Plans a run of the tasks without an answer in `output`; nothing is sent or written. `time` is that of a call.
    ///
    /// Calls of earlier runs do not count in the limits, and each call is taken to succeed.
    ///
    /// # Errors
    /// As those of [`run`](Self::run) before its first call, and if the keys are those of a gateway's pool, whose limits
    /// are not known here.
    pub fn dry_run(&self, output: &Path, time: CallTime) -> Result<DryRun, BatchError> {
        if self.models.is_empty() && !self.items.is_empty() {
            return Err(BatchError::NoModels);
        }
        if self.pool.is_some() {
            let problem =
                "the limits of a gateway's pool are not known here; see leasehold plan --config";
            return Err(BatchError::Plan(problem.to_owned()));
        }
        let capacity = self.capacity()?;
        let (results, tasks) = self.open(output)?;
        results.abandon()?;
        let workers = u32::try_from(self.workers().get()).unwrap_or(u32::MAX);
        let pace = Pace::Workers {
            count: NonZeroU32::new(workers).unwrap_or(NonZeroU32::MIN),
            start: Some(NarrowStart::BATCH),
        };
        let calls = self.calls_of(&tasks.open, None)?;
        let workload = match Workload::new(self.models.clone(), calls, pace, time) {
            Ok(workload) => workload.with_seed(self.seed),
            Err(WorkloadError::Empty) => {
                return Ok(DryRun {
                    capacity,
                    prediction: None,
                });
            }
            Err(error) => return Err(BatchError::Plan(error.to_string())),
        };
        let prediction = Prediction::new(&capacity, &workload, Vec::new(), self.prices);
        let prediction = prediction.map_err(|error: PlanError| BatchError::Plan(error.to_string()));
        Ok(DryRun {
            capacity,
            prediction: Some(prediction?),
        })
    }

    /// The keys of the batch: a member for each account, as its pool has.
    fn capacity(&self) -> Result<Capacity, BatchError> {
        let accounts = self.accounts()?;
        let members = accounts.iter().enumerate().map(|(index, account)| {
            let first = account.upstreams.first();
            let key = first.and_then(|first| self.upstreams.get(*first));
            let name = key.map(|upstream| upstream.endpoint.key().to_string());
            let mut member = PlannedMember::new(name.unwrap_or_else(|| index.to_string()));
            member.limits.clone_from(&account.limits);
            member
        });
        let mut capacity = Capacity::new(Policy::Fifo, members.collect());
        capacity.model_limits.clone_from(&self.model_limits);
        Ok(capacity)
    }

    /// Lists the calls of these tasks.
    fn calls_of(&self, tasks: &Bits, completion: Option<u64>) -> Result<Vec<Call>, BatchError> {
        let mut calls = Vec::new();
        let mut next = tasks.first_from(0);
        while let Some(number) = next {
            let (index, column) = self.place_of(number);
            let (item, model) = (self.items.item(index)?, self.model_of(index, column));
            let name = self.models.get(model).map_or("", String::as_str);
            let request = self.request.request(&item, name)?;
            let most = u64::from(estimate_output(&request.body, FIRST_OUTPUT));
            let answer = completion.unwrap_or(most);
            let is_review = self.reviewed_by(index, column).is_some();
            let read = if is_review { answer } else { 0 };
            let prompt = u64::from(estimate_prompt(name, &request.body)).saturating_add(read);
            let mut call = Call::default();
            call.model = u32::try_from(model).unwrap_or(u32::MAX);
            call.tokens = Tokens {
                prompt,
                completion: answer,
            };
            call.reserved = prompt.saturating_add(most);
            calls.push(call);
            next = tasks.first_from(number.saturating_add(1));
        }
        Ok(calls)
    }
}

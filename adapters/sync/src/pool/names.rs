//! A pool in the words of people: numbers for names, names for numbers, and the reasons of a refusal.

use super::SyncPool;
use crate::error::AcquireError;
use crate::explained::Explained;
use crate::names::TooManyNames;
use crate::sync::lock;
use leasehold_core::pool::{Labels, MemberId, Request};

impl<T> SyncPool<T> {
    /// The number of the class of this name: the same for a name for the pool's life, never 0.
    ///
    /// Names are kept until the pool is dropped, and aren't part of a snapshot: after a restore, name classes and
    /// labels in the same order first. Each call takes a lock, so that a hot path keeps the number. Name what you
    /// know, not what a stranger sends: names that nothing uses take the room of others.
    ///
    /// ```
    /// use leasehold_sync::{Member, Policy, PoolConfig, Request, SyncPool};
    ///
    /// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.add(Member::new("sk-1").labels(pool.labels(["vision", "cheap"])?))?;
    /// let request = Request::new().class(pool.class("gpt-4o")?).labels(pool.labels(["vision"])?);
    /// assert_eq!(*pool.enqueue(request)?.wait()?, "sk-1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The name is new, and the pool has no [room](TooManyNames) for it.
    pub fn class(&self, name: &str) -> Result<u32, TooManyNames> {
        self.shared.names.class(name)
    }

    /// The name of a class; `None` for class 0 and others that [`class`](Self::class) didn't number.
    #[must_use]
    pub fn class_name(&self, class: u32) -> Option<std::sync::Arc<str>> {
        self.shared.names.class_name(class)
    }

    /// The set of the labels of these names, for members and requests.
    ///
    /// # Errors
    /// The pool has no [room](TooManyNames) for a label, and then names none of the new ones; or none for the set.
    pub fn labels(
        &self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Labels, TooManyNames> {
        let numbers = self.shared.names.labels(names)?;
        let labels = self
            .shared
            .under_lock(|state, _| state.pool.labels(numbers));
        labels.map_err(|_| TooManyNames::of("sets of labels"))
    }

    /// The names of the labels in a set, in the order in which they were first named.
    #[must_use]
    pub fn label_names(&self, labels: Labels) -> Vec<std::sync::Arc<str>> {
        let state = lock(&self.shared.state);
        let numbers = state.pool.labels_in(labels).unwrap_or_default().to_vec();
        drop(state);
        self.shared.names.label_names(&numbers)
    }

    /// The number of the flow of this name: the same for a name for the pool's life, never 0.
    ///
    /// # Errors
    /// The name is new, and the pool has no [room](TooManyNames) for it.
    pub fn flow(&self, name: &str) -> Result<u64, TooManyNames> {
        self.shared.names.flow(name)
    }

    /// The name of a flow; `None` for those that [`flow`](Self::flow) didn't number.
    #[must_use]
    pub fn flow_name(&self, flow: u64) -> Option<std::sync::Arc<str>> {
        self.shared.names.flow_name(flow)
    }

    /// The member of a name; the one added last, if several have it. O(members).
    #[must_use]
    pub fn member(&self, name: &str) -> Option<MemberId> {
        self.shared.names.member(name)
    }

    /// The name of a member that was [added](Self::add_named) under one.
    #[must_use]
    pub fn member_name(&self, member: MemberId) -> Option<std::sync::Arc<str>> {
        self.shared.names.member_name(member)
    }

    /// Tells for each member whether it could serve the request, and if not, why. O(members), under the lock.
    #[must_use]
    pub fn explain(&self, request: &Request) -> Vec<Explained> {
        let reasons: Vec<_> = self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            state.pool.explain(request).collect()
        });
        let names = &self.shared.names;
        let explained = reasons.into_iter().map(|(member, eligibility)| Explained {
            member,
            name: names.member_name(member),
            eligibility,
        });
        explained.collect()
    }

    /// Returns the member to repeat a request on after others failed it; see
    /// [`Pool::alternative`](leasehold_core::pool::Pool::alternative).
    #[must_use]
    pub fn alternative(&self, request: &Request, tried: &[MemberId]) -> Option<MemberId> {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            state.pool.alternative(request, tried)
        })
    }

    /// Describes a refusal to people: the error, and the names of what the request asked for.
    ///
    /// ```
    /// use leasehold_sync::{Policy, PoolConfig, Request, SyncPool};
    ///
    /// let pool: SyncPool<()> = SyncPool::new(PoolConfig::new(Policy::Fifo));
    /// let request = Request::new().class(pool.class("gpt-4o")?).deadline(pool.now());
    /// let refused = pool.enqueue(request).unwrap_err();
    /// let told = "no member is ready now; no member has the labels that the request needs (class gpt-4o)";
    /// assert_eq!(pool.describe(refused, &request), told);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn describe(&self, refused: AcquireError, request: &Request) -> String {
        let mut asked = Vec::new();
        if let Some(class) = self.class_name(request.class_number()) {
            asked.push(format!("class {class}"));
        }
        for label in self.label_names(request.label_set()) {
            asked.push(format!("label {label}"));
        }
        if let Some(flow) = self.flow_name(request.flow_number()) {
            asked.push(format!("caller {flow}"));
        }
        let pinned = request.pinned_to();
        if let Some(member) = pinned.and_then(|member| self.member_name(member)) {
            asked.push(format!("only {member}"));
        }
        match asked.is_empty() {
            true => refused.to_string(),
            false => format!("{refused} ({})", asked.join(", ")),
        }
    }
}

//! Whether members and the receivers of alerts can be reached, looked at without spending a call of any limit.
//!
//! Invariant: a member gets no request but the health check of its own pool, and of services with keys none; a receiver gets
//! no message.

use crate::alerts::Receiver;
use crate::backend::Backend;
use crate::clock::{now, time_of_day};
use crate::probes::{Looked, look_at};
use crate::upstream::connect;
use core::time::Duration;
use futures_util::stream::{self, StreamExt as _};
use leasehold_config::{Kind, MemberSettings, PoolSettings, Settings};
use std::io;
use std::time::SystemTime;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

/// The most places that are looked at side by side.
const AT_ONCE: usize = 64;

/// The finding at one place of a pool.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The pool.
    pub pool: String,
    /// The members that are there: all keys of one service, or one server.
    pub members: Vec<String>,
    /// Where it is.
    pub url: String,
    /// What was found, or why there is nothing.
    pub result: Result<Reached, String>,
}

/// A place that could be reached.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The time for a connection to be made, TLS included, and a health check to be answered.
    pub took: Duration,
    /// The path of the health check that was made; `None` if the pool has none, or keys.
    pub health: Option<String>,
    /// The time that the place told in the answer's `Date`, and that of this machine.
    pub dates: Option<(SystemTime, SystemTime)>,
}

/// The finding at one receiver of an alert.
#[derive(Clone, Debug)]
pub struct ReceiverReach {
    /// The alert.
    pub alert: String,
    /// The receiver, without what may be secret of it.
    pub receiver: String,
    /// What was found, or why it would get no message.
    pub result: Result<String, String>,
}

/// Looks at each place of all pools, side by side, and gives each up after this time.
///
/// # Errors
/// The system has no resources for it.
pub fn reach_members(settings: &Settings, longest: Duration) -> io::Result<Vec<Reach>> {
    let places = settings.pools.iter().flat_map(places);
    side_by_side(places.map(|place| place.reach(longest)))
}

/// Looks at each receiver of all alerts, side by side, and gives each up after this time. A webhook is connected to, and a
/// command is looked for.
///
/// # Errors
/// The system has no resources for it.
pub fn reach_receivers(settings: &Settings, longest: Duration) -> io::Result<Vec<ReceiverReach>> {
    let receivers = settings.alerts.iter().flat_map(|alert| {
        let receivers = Receiver::of(alert).into_iter();
        receivers.map(|receiver| (alert.name.clone(), receiver))
    });
    side_by_side(receivers.map(|(alert, receiver)| async move {
        ReceiverReach {
            alert,
            receiver: receiver.to_string(),
            result: within(longest, receiver.reach()).await,
        }
    }))
}

fn side_by_side<F: Future>(looks: impl Iterator<Item = F>) -> io::Result<Vec<F::Output>> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    Ok(runtime.block_on(stream::iter(looks).buffered(AT_ONCE).collect()))
}

async fn within<T>(
    longest: Duration,
    look: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {longest:?}"));
    timeout(longest, look).await.unwrap_or_else(late)
}

/// Members of one pool that are at one place.
struct PlaceOf<'s> {
    pool: &'s PoolSettings,
    first: &'s MemberSettings,
    members: Vec<String>,
}

/// Returns the places of a pool's members, in their order.
fn places(pool: &PoolSettings) -> Vec<PlaceOf<'_>> {
    let mut places: Vec<PlaceOf<'_>> = Vec::new();
    for member in &pool.members {
        let found = places
            .iter_mut()
            .find(|place| place.first.url == member.url);
        match found {
            Some(place) => place.members.push(member.name.clone()),
            None => places.push(PlaceOf {
                pool,
                first: member,
                members: vec![member.name.clone()],
            }),
        }
    }
    places
}

impl PlaceOf<'_> {
    async fn reach(self, longest: Duration) -> Reach {
        Reach {
            result: within(longest, self.look()).await,
            pool: self.pool.name.clone(),
            url: self.first.url.to_string(),
            members: self.members,
        }
    }

    async fn look(&self) -> Result<Reached, String> {
        let backend = Backend::new(self.first, self.pool.kind)?;
        let begun = now();
        let health = match self.pool.kind {
            // A request could cost a call.
            Kind::Openai => None,
            Kind::Http | Kind::Comfyui => self.pool.health.as_ref(),
        };
        let Some(health) = health else {
            let connected = connect(&backend, self.pool.upstream.connect).await;
            connected.map_err(|error| format!("cannot connect: {error}"))?;
            return Ok(Reached {
                took: begun.elapsed(),
                health: None,
                dates: None,
            });
        };
        let looked = look_at(self.pool, health, &backend).await;
        let Looked { date, .. } = looked.map_err(|error| error.to_string())?;
        Ok(Reached {
            took: begun.elapsed(),
            health: Some(health.path.to_string()),
            dates: date.map(|date| (date, time_of_day())),
        })
    }
}

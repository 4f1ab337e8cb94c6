//! HAProxy's HTTP log: dates of arrival and timers in milliseconds.

use super::{Entry, date};
use core::time::Duration;

/// Reads a line such as `... 10.0.1.2:33317 [06/Feb/2009:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 ...`.
pub(super) fn parse(line: &str) -> Option<Entry> {
    let (head, rest) = line.split_once(" [")?;
    // A syslog header may have brackets of its own: `haproxy[14389]:` has no space before them.
    let client = head.rsplit(' ').next()?;
    let (date, rest) = rest.split_once("] ")?;
    let (start, _) = date::of_log(date)?;
    let mut words = rest.split_ascii_whitespace();
    words.next()?;
    let (_, server) = words.next()?.split_once('/')?;
    // `TR/Tw/Tc/Tr/Ta`: request, queue, connection, response head, all. -1 is a phase that did not end.
    let timers = words.next()?.split('/');
    let timers: Vec<i64> = timers
        .map(|timer| timer.trim_start_matches('+').parse().ok())
        .collect::<Option<_>>()?;
    let [request, queue, .., total] = timers.as_slice() else {
        return None;
    };
    let phase = |millis: i64| u64::try_from(millis).unwrap_or(0);
    let before = phase(*request).saturating_add(phase(*queue));
    let call = phase(*total).saturating_sub(before);
    let address = client
        .rsplit_once(':')
        .map_or(client, |(address, _)| address);
    Some(Entry {
        // The date is that of the first byte, and the call is asked for once the request is there.
        start: start.saturating_add(i128::from(phase(*request)) * 1_000_000),
        tick: 0,
        time: Some(Duration::from_millis(call)),
        member: (!server.starts_with('<')).then(|| server.to_owned()),
        caller: Some(address.to_owned()),
        ..Entry::default()
    })
}

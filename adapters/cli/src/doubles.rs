//! Flags and texts that test servers on several ports have in common.

use crate::values::{parse_host, parse_whole};
use crate::{CliError, print_out};
use core::fmt::Display;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::HashSet;
use std::io;

/// Flags of all of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// IP address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = parse_host)]
    host: IpAddr,
    /// Print what they saw as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Seed of what is drawn
    #[arg(long, default_value_t = 0, value_parser = parse_whole::<u64>)]
    seed: u64,
}

impl Common {
    /// The address of a server, and its seed: servers draw independently of each other.
    pub(crate) fn at(&self, port: u16, index: u64) -> (SocketAddr, u64) {
        let address = SocketAddr::new(self.host, port);
        (address, self.seed.wrapping_add(index))
    }
}

/// A value for the server of one port, or for all of them.
#[derive(Clone, Debug)]
pub(crate) struct OfPort<T> {
    pub(crate) port: Option<u16>,
    pub(crate) value: T,
}

impl<T> OfPort<T> {
    pub(crate) fn parse<E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Self, E> {
        // What is no value after the sign is part of the value: 503=20% is a fault with a share.
        let of_port = text.split_once('=').and_then(|(port, value)| {
            let port = Some(port.parse().ok()?);
            let value = parse(value).ok()?;
            Some(Self { port, value })
        });
        match of_port {
            Some(of_port) => Ok(of_port),
            None => parse(text).map(|value| Self { port: None, value }),
        }
    }

    pub(crate) fn applies_to(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }
}

/// Refuses a port that is there twice, and a flag for one that is not there.
pub(crate) fn check_ports<'f>(
    ports: &[u16],
    named: impl Iterator<Item = (&'f str, Option<u16>)>,
) -> Result<(), CliError> {
    let mut seen = HashSet::new();
    for port in ports.iter().filter(|port| **port != 0) {
        if !seen.insert(port) {
            return Err(CliError::usage(format!("--ports: {port} is there twice")));
        }
    }
    for (flag, port) in named {
        if let Some(port) = port.filter(|port| *port == 0 || !ports.contains(port)) {
            let problem = format!("{flag}: {port} is not one of the --ports");
            return Err(CliError::usage(problem));
        }
    }
    Ok(())
}

/// Prints a row of the table at the end.
pub(crate) fn print_row(cells: [&dyn Display; 9]) {
    let [id, numbers @ ..] = cells;
    let numbers = numbers.map(|number| format!("{number:>9}"));
    print_out(format_args!("{id:<16}{}", numbers.concat()));
}

pub(crate) fn cannot_listen(address: SocketAddr, source: &io::Error) -> CliError {
    CliError::usage(format!(
        "cannot listen on {address}: {source}; choose other --ports or another --host"
    ))
}

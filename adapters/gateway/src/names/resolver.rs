//! Looks names up: in `/etc/hosts` and DNS, with lifetimes; else as the system does it, without.
//!
//! Invariant: the files of the system are read anew for each look-up, so that a change of them is seen.

use super::LookedUp;
use crate::clock::now;
use core::net::IpAddr;
use core::time::Duration;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use tokio::time::Instant;

/// Looks a name up. IPv6 addresses are asked for only where there are no IPv4 ones.
pub(super) async fn look_up(host: String) -> LookedUp {
    let in_dns = match resolver() {
        Ok(resolver) => ask(&resolver, &host).await,
        Err(error) => Err(error.to_string()),
    };
    match in_dns {
        Ok(found) => Ok(found),
        // It may be known to the system in another way, such as mDNS.
        Err(error) => by_system(&host).await.map_err(|_| error),
    }
}

fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    builder.build()
}

async fn ask(resolver: &TokioResolver, host: &str) -> LookedUp {
    let found = resolver.lookup_ip(host).await;
    let found = found.map_err(|error| error.to_string())?;
    let ttl = Instant::from_std(found.valid_until()).saturating_duration_since(now());
    Ok((found.iter().collect(), Some(ttl)))
}

async fn by_system(host: &str) -> LookedUp {
    let found = tokio::net::lookup_host((host, 0)).await;
    let found = found.map_err(|error| error.to_string())?;
    let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let v4: Vec<IpAddr> = found.iter().copied().filter(IpAddr::is_ipv4).collect();
    Ok((if v4.is_empty() { found } else { v4 }, None::<Duration>))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, SocketAddr};
    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    const TTL: u8 = 7;

    /// Answers questions for IPv4 addresses of `app.test`, and knows no other name.
    async fn serve_names(socket: UdpSocket, addresses: [[u8; 4]; 2]) {
        let mut buffer = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.expect("a question");
            let name = buffer[12..length].iter().position(|byte| *byte == 0);
            let end = 12 + name.expect("the end of a name") + 5;
            let is_known = buffer[12..end].starts_with(b"\x03app\x04test\0");
            let asks_v4 = buffer[end - 3] == 1;
            let mut reply = buffer[..end].to_vec();
            // A response, recursion desired and available; 3 is "no such name".
            reply[2] = 0x81;
            reply[3] = if is_known { 0x80 } else { 0x83 };
            reply[6..12].fill(0);
            if is_known && asks_v4 {
                reply[7] = 2;
                for address in addresses {
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4]);
                    reply.extend(address);
                }
            }
            let _ = socket.send_to(&reply, peer).await;
        }
    }

    fn resolver_at(server: SocketAddr) -> TokioResolver {
        let mut name_server = NameServerConfig::udp(server.ip());
        for connection in &mut name_server.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.build().expect("a resolver")
    }

    #[tokio::test]
    async fn addresses_of_a_name_come_with_their_lifetime() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = resolver_at(socket.local_addr().unwrap());
        tokio::spawn(serve_names(socket, [[10, 0, 0, 1], [10, 0, 0, 2]]));
        let (mut addresses, ttl) = ask(&resolver, "app.test").await.unwrap();
        addresses.sort();
        let expected = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        assert_eq!(addresses, expected.map(IpAddr::from));
        let ttl = ttl.expect("DNS tells it").as_secs_f64();
        assert!((1.0..=f64::from(TTL)).contains(&ttl), "{ttl}");
        assert!(ask(&resolver, "other.test").await.is_err());
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_are_found() {
        let (addresses, _) = look_up("localhost".to_owned()).await.unwrap();
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}

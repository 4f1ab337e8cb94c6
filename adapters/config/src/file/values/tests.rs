//! Each form of texts is read, shown and read back.

use super::*;

/// Reads texts, and reads back what they are shown as.
fn reads<V: Value>(texts: &[(&str, &str)], wrong: &[&str]) {
    for (text, shown) in texts {
        let read = V::read(text).map_err(|error| error.problem);
        let read = read.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.show(), *shown, "{text}");
        assert_eq!(
            V::read(shown).ok().map(|it| it.show()).as_deref(),
            Some(*shown)
        );
    }
    for text in wrong {
        assert!(V::read(text).is_err(), "{text}");
    }
    assert!(V::read(V::EXAMPLE).is_ok());
    assert!(V::WORDS.iter().all(|word| V::read(word).is_ok()));
}

#[test]
fn every_form_of_spans_limits_and_addresses_is_read_shown_and_read_back() {
    reads::<Duration>(&[("60s", "1min"), ("0s", "0s")], &["", "60", "1.5s"]);
    reads::<Timeout>(&[("1m", "1min")], &["0s", "5"]);
    reads::<LimitSpecs>(&[("3/min", "3/1min")], &["", "3", "3/60s,"]);
    reads::<Policy>(&[("ip_hash", "ip_hash"), ("ring", "ring")], &["", "Ring"]);
    reads::<Share>(
        &[("50%", "50%"), ("0.5%", "0.5%"), ("100.0%", "100%")],
        &["50", "%", ".5%", "100.1%", "1.25%", "-1%", "+5%", "6554%"],
    );
    reads::<Address>(
        &[
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::]:0", "[::]:0"),
            ("unix:/run/a", "unix:/run/a"),
        ],
        &[
            "",
            "8080",
            ":8080",
            "localhost:80",
            "127.0.0.1",
            "unix:",
            "::1:80",
        ],
    );
    reads::<Url>(
        &[
            (" http://h:1 ", "http://h:1/"),
            ("https://h/v1?api-version=1", "https://h/v1?api-version=1"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ],
        &[
            "",
            "h:1",
            "ftp://h",
            "http://u:p@h",
            "http://h/#a",
            "http://h/?a",
            "http://h:0",
            "http://h:x",
        ],
    );
}

#[test]
fn every_form_of_requests_and_names_is_read_shown_and_read_back() {
    reads::<RangeInclusive<u16>>(
        &[("200-399", "200-399"), ("204", "204"), ("204-204", "204")],
        &["", "399-200", "99", "600", "+20", "200-", "2xx"],
    );
    reads::<PathAndQuery>(
        &[("/", "/"), ("/a?b=c", "/a?b=c")],
        &["", "a", "/a b", "/a#b", "*"],
    );
    reads::<PathPrefix>(
        &[("/", "/"), ("/a/", "/a"), ("/a/b", "/a/b")],
        &["", "a", "/a?b", "/a?"],
    );
    reads::<HostName>(
        &[("Example.com", "example.com"), ("[::1]", "[::1]")],
        &["", "h:80", "u@h", "a b", "h/"],
    );
    reads::<CookieName>(&[("sid", "sid")], &["", "a b", "a=b", "a;b", "ä"]);
    reads::<Name>(
        &[("a-1", "a-1"), ("[::1]:80", "[::1]:80"), ("ä", "ä")],
        &["", "a b", "a/b", "a\n"],
    );
    reads::<FilePath>(&[("a/b", "a/b")], &["", "\0"]);
    reads::<Line>(&[(" a", " a")], &[""]);
    reads::<Kind>(&[], &["", "HTTP"]);
    reads::<Serve>(&[], &["lease"]);
    reads::<LogFormat>(&[], &["off"]);
    reads::<LogStyle>(&[], &["text"]);
    reads::<Target>(
        &[("leasehold::health", "leasehold::health")],
        &["", "a=b", "a b", "ä"],
    );
    reads::<LogLevel>(&[], &["", "INFO", "warning"]);
    reads::<AfterCrash>(&[], &["open"]);
    reads::<Network>(&[("10.0.0.1", "10.0.0.1/32")], &["all"]);
}

#[test]
fn every_form_of_callers_and_prices_is_read_shown_and_read_back() {
    let hash = "0123456789abcdef".repeat(4);
    reads::<KeyHash>(
        &[(&hash, &hash), (&hash.to_ascii_uppercase(), &hash)],
        &[
            "",
            &hash[1..],
            &format!("+{}", &hash[1..]),
            &"é".repeat(32),
            &KeyHash::of(b"changeme").to_string(),
        ],
    );
    reads::<ModelPattern>(&[("*", "*"), ("a/b-*", "a/b-*")], &["", "a[b]", "a?", "**"]);
    reads::<Usd>(
        &[("2.50 USD", "2.5 USD"), ("0USD", "0 USD")],
        &["", "2.5", "-1 USD"],
    );
    reads::<MoneyBudget>(
        &[
            ("5 USD/day", "5 USD/1d"),
            ("0.5 USD / week", "0.5 USD/7d"),
            ("1 USD/30d", "1 USD/30d"),
        ],
        &["", "5 USD", "5/day", "0 USD/day", "5 USD/month", "5 USD/0s"],
    );
    reads::<OnDisconnect>(&[], &["", "keep"]);
}

#[test]
fn every_condition_of_an_alert_is_read_shown_and_read_back() {
    reads::<AlertWhen>(
        &[
            ("member  down", "member down"),
            ("pool down", "pool down"),
            ("breaker open", "breaker open"),
            ("limit exhausted", "limit exhausted"),
            ("jobs lost", "jobs lost"),
            ("queue>0", "queue > 0"),
            (" wait p99 > 5s", "wait p99 > 5s"),
            ("wait p99.9 > 1m", "wait p99.9 > 1min"),
            ("errors > 0.5%", "errors > 0.5%"),
            ("spend > 2.50 USD", "spend > 2.5 USD"),
            ("caller spend > 5 USD", "caller spend > 5 USD"),
        ],
        &[
            "",
            "member",
            "member up",
            "queue",
            "queue < 5",
            "queue > -1",
            "queue > 1 > 0",
            "wait > 5s",
            "wait p0 > 5s",
            "wait p101 > 5s",
            "wait p99 > 5",
            "errors > 5",
            "spend > 5",
            "members down > 1",
        ],
    );
    reads::<Label>(&[("a_1", "a_1")], &["", "1a", "a-b", "pool", "ä"]);
    let misread = AlertWhen::read("errors > much").unwrap_err();
    assert_eq!(misread.at, 8);
}

#[test]
fn a_mistake_in_limits_has_its_place() {
    let misread = LimitSpecs::read("3/min, 5 apples/min").unwrap_err();
    assert_eq!(misread.at, 9);
}

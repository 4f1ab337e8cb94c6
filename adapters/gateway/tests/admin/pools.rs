//! Several pools: ids that are in more than one.

use crate::support::*;
use leasehold_core::balance::Policy;
use serde_json::json;

#[test]
fn an_id_of_several_pools_needs_the_pool() {
    let one = backend();
    let pools = vec![
        pool("web", Policy::RoundRobin, &[one]),
        pool("api", Policy::LeastConnections, &[one, backend()]),
    ];
    let running = Running::start(settings(pools));
    let disable = format!("/lb/backends/{one}/disable");
    let ambiguous = running.change("POST", &disable, None);
    assert_eq!(
        (ambiguous.status, ambiguous.code()),
        (409, "ambiguous_id".to_owned())
    );
    assert!(
        ambiguous.body.contains("one of: web, api"),
        "{}",
        ambiguous.body
    );
    let view = running.changed("POST", &format!("{disable}?pool=api"), None);
    assert_eq!(
        (&view["pool"], &view["status"]),
        (&json!("api"), &json!("disabled"))
    );
    let api = running.read("/lb/backends?pool=api");
    assert_eq!(api.as_array().unwrap().len(), 2);
    assert_eq!(running.read("/lb/backends").as_array().unwrap().len(), 3);
    assert_eq!(
        running.read("/lb/backends?pool=web")[0]["status"],
        "enabled"
    );
    let stats = running.read("/lb/stats");
    assert_eq!(
        stats["load_balancer"],
        "RoundRobinBalancer, LeastConnectionsBalancer"
    );
    assert_eq!(stats["backends"]["healthy_backends"], 2);
    assert_eq!(stats["pools"][1]["healthy_backends"], 1);
}

#[test]
fn a_new_backend_needs_a_pool_where_there_are_several() {
    let pools = vec![
        pool("web", Policy::RoundRobin, &[]),
        pool("api", Policy::RoundRobin, &[]),
    ];
    let running = Running::start(settings(pools));
    let body = |pool: &str| json!({"host": "a.test", "port": 80, "pool": pool}).to_string();
    let add = "/lb/backends/add";
    let unnamed = running.change("POST", add, Some(r#"{"host":"a.test","port":80}"#));
    assert_eq!(
        (unnamed.status, unnamed.code()),
        (409, "ambiguous_pool".to_owned())
    );
    let unknown = running.change("POST", add, Some(&body("wev")));
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "unknown_pool".to_owned())
    );
    let torn = running.change("POST", &format!("{add}?pool=web"), Some(&body("api")));
    assert_eq!(
        (torn.status, torn.code()),
        (409, "ambiguous_pool".to_owned())
    );
    for pool in ["web", "api"] {
        assert_eq!(
            running.changed("POST", add, Some(&body(pool)))["pool"],
            pool
        );
    }
    let again = running.change("POST", add, Some(&body("api")));
    assert_eq!(
        (again.status, again.code()),
        (409, "duplicate_id".to_owned())
    );
}

//! Who has an address that several Services claim.

use super::*;

/// SVC-15, EIP-6: an address is had by the best right, whatever the age.
#[test]
fn no_external_address_takes_what_the_cluster_gave_to_another_service() {
    let shared: IpAddr = [10, 96, 0, 1].into();
    let outside: IpAddr = [203, 0, 113, 1].into();
    let victim = || service("victim", 9, |service| service.vip4 = vip(1));
    let thief = |created| {
        service("thief", created, |service| {
            service.vip4 = vip(2);
            service.external_ips = vec![shared, outside];
        })
    };
    let balanced = || {
        service("balanced", 8, |service| {
            service.vip4 = vip(3);
            service.load_balancer_ips = vec![outside];
        })
    };
    let has = |model: &Model, of: &str| {
        let port = model.desired(&name(of)).ports.remove(0);
        let vip = port.vip.into_iter();
        let all: Vec<String> = vip
            .chain(port.load_balancer_ips)
            .chain(port.external_ips)
            .map(|addr| addr.to_string())
            .collect();
        all.join(" ")
    };
    let problems = |model: &Model| model.problems().map(ToString::to_string).collect::<Vec<_>>();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut model = model();
        let events = [thief(0), victim(), balanced()];
        for event in order.map(|place| events[place].clone()) {
            let _touched = model.apply([event]);
        }
        assert_eq!(has(&model, "victim"), "10.96.0.1");
        assert_eq!(has(&model, "balanced"), "10.96.0.3 203.0.113.1");
        assert_eq!(has(&model, "thief"), "10.96.0.2");
        assert_eq!(
            problems(&model),
            [
                "Service default/thief: 10.96.0.1:80/TCP belongs to Service default/victim, whose cluster IP it is: not programmed",
                "Service default/thief: 203.0.113.1:80/TCP belongs to Service default/balanced, whose load balancer has it: not programmed",
            ]
        );
        let touched = model
            .apply([Event::DeleteService(name("victim")), Event::DeleteService(name("balanced"))]);
        assert_eq!(touched, ["balanced", "thief", "victim"].map(name).into());
        assert_eq!(has(&model, "thief"), "10.96.0.2 10.96.0.1 203.0.113.1");
        assert_eq!(problems(&model), [""; 0]);
        // Its right to an address may change while it keeps it.
        let _touched = model.apply([service("thief", 0, |service| {
            service.vip4 = vip(1);
            service.external_ips = vec![outside];
        })]);
        let _touched = model.apply([victim()]);
        assert_eq!(has(&model, "thief"), "10.96.0.1 203.0.113.1", "it is older");
        assert_eq!(has(&model, "victim"), "");
    }
}

/// SVC-15: of equal rights the oldest counts; who loses takes over when the holder goes.
#[test]
fn of_equal_claims_to_an_external_address_the_oldest_counts() {
    let outside: IpAddr = [203, 0, 113, 1].into();
    let claim = |of: &str, created, last| {
        service(of, created, move |service| {
            service.vip4 = vip(last);
            service.external_ips = vec![outside];
        })
    };
    let mut model = model();
    let _touched = model.apply([claim("young", 7, 1), claim("old", 3, 2)]);
    let has = |model: &Model, of: &str| model.desired(&name(of)).ports[0].external_ips.len();
    assert_eq!((has(&model, "young"), has(&model, "old")), (0, 1));
    let touched = model.apply([Event::DeleteService(name("old"))]);
    assert!(touched.contains(&name("young")));
    assert_eq!(has(&model, "young"), 1);
}

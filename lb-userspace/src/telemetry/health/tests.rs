use super::*;

const PERIOD: Duration = Duration::from_secs(30);

/// Instants of one test, which count from its start.
struct Time(Moment);

impl Time {
    fn new() -> Self {
        Self(Moment { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH })
    }

    fn at(&self, seconds: u64) -> Moment {
        let passed = Duration::from_secs(seconds);
        Moment { instant: self.0.instant + passed, wall: self.0.wall + passed }
    }

    fn instant(&self, seconds: u64) -> Instant {
        self.at(seconds).instant
    }
}

/// A node whose families were programmed at second 1.
fn programmed(time: &Time) -> Health {
    let mut health = Health::new(PERIOD);
    health.sync_done(Family::V4, time.instant(1), time.at(1));
    health.sync_done(Family::V6, time.instant(1), time.at(1));
    health
}

/// HZ-2, HZ-6.
#[test]
fn the_answer_has_the_keys_of_kube_proxy_and_now_for_its_time() {
    let time = Time::new();
    let health = programmed(&time);
    let json = serde_json::to_value(health.healthz(time.at(100))).unwrap();
    let family = serde_json::json!({ "lastUpdated": "1970-01-01T00:01:40Z", "healthy": true });
    let expected = serde_json::json!({
        "lastUpdated": "1970-01-01T00:01:40Z",
        "currentTime": "1970-01-01T00:01:40Z",
        "nodeEligible": true,
        "healthy": true,
        "status": { "IPv4": family, "IPv6": family },
    });
    assert_eq!(json, expected);
    let json = serde_json::to_value(health.livez(time.at(100))).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["currentTime", "healthy", "lastUpdated", "status"]);
}

/// HZ-2.
#[test]
fn only_families_that_have_something_to_program_are_shown() {
    let time = Time::new();
    let mut health = Health::new(PERIOD);
    assert!(health.livez(time.at(0)).status.is_empty());
    health.sync_done(Family::V6, time.instant(1), time.at(1));
    let families: Vec<_> = health.livez(time.at(2)).status.into_keys().collect();
    assert_eq!(families, ["IPv6"]);
}

/// HZ-3, HZ-6.
#[test]
fn a_change_that_waits_longer_than_two_sync_periods_is_unhealthy_until_it_is_programmed() {
    let time = Time::new();
    let mut health = programmed(&time);
    health.change_queued(Family::V6, time.instant(10));
    assert!(health.healthz(time.at(70)).ok, "60 s are allowed");
    let answer = health.healthz(time.at(71));
    assert!(!answer.ok && !answer.healthy);
    assert_eq!(answer.last_updated, "1970-01-01T00:00:01Z");
    assert_eq!(answer.current_time, "1970-01-01T00:01:11Z");
    assert!(answer.status["IPv4"].healthy);
    let late = FamilyAnswer { last_updated: "1970-01-01T00:00:01Z".into(), healthy: false };
    assert_eq!(answer.status["IPv6"], late);
    assert!(!health.livez(time.at(71)).ok);
    health.sync_done(Family::V6, time.instant(72), time.at(72));
    assert!(health.healthz(time.at(72)).ok);
}

/// HZ-3.
#[test]
fn the_age_counts_from_the_oldest_change_that_waits() {
    let time = Time::new();
    let mut health = programmed(&time);
    for second in 10..69 {
        health.change_queued(Family::V4, time.instant(second));
    }
    assert!(!health.is_healthy(time.instant(71)));
}

/// HZ-3.
#[test]
fn a_sync_does_not_count_for_a_change_that_came_after_it_began() {
    let time = Time::new();
    let mut health = programmed(&time);
    health.change_queued(Family::V4, time.instant(10));
    health.change_queued(Family::V4, time.instant(15));
    health.sync_done(Family::V4, time.instant(12), time.at(16));
    assert!(health.is_healthy(time.instant(72)));
    assert!(!health.is_healthy(time.instant(76)), "the second change still waits");
}

/// HZ-4.
#[test]
fn a_node_without_changes_stays_healthy() {
    let time = Time::new();
    let health = programmed(&time);
    assert!(health.healthz(time.at(10 * 24 * 3600)).ok);
}

/// HZ-5.
#[test]
fn before_anything_is_programmed_load_balancers_are_kept_away_but_no_restart_is_asked_for() {
    let time = Time::new();
    let mut health = Health::new(PERIOD);
    let answer = health.healthz(time.at(3600));
    assert!(!answer.ok && !answer.healthy);
    assert_eq!(answer.last_updated, "0001-01-01T00:00:00Z");
    assert!(health.livez(time.at(3600)).ok);
    health.sync_done(Family::V4, time.instant(3601), time.at(3601));
    assert!(health.healthz(time.at(3601)).ok);
}

/// HZ-5, HZ-10, SYNC-13.
#[test]
fn what_an_earlier_agent_programmed_serves_while_the_api_is_away() {
    let time = Time::new();
    let mut health = Health::new(PERIOD);
    health.adopted();
    let answer = health.healthz(time.at(3600));
    assert!(answer.ok && answer.healthy && answer.status.is_empty());
}

/// HZ-7, HZ-8.
#[test]
fn a_node_that_goes_away_fails_healthz_and_passes_livez() {
    let time = Time::new();
    let mut health = programmed(&time);
    for away in [Eligibility::Missing, Eligibility::Deleting, Eligibility::Tainted] {
        assert!(health.node_eligibility(away));
        assert!(!health.node_eligibility(away), "no news");
        let answer = health.healthz(time.at(2));
        assert_eq!((answer.ok, answer.healthy, answer.node_eligible), (false, true, Some(false)));
        assert!(health.livez(time.at(2)).ok);
        assert!(health.is_healthy(time.instant(2)), "HC-13: health check node ports stay");
    }
    assert!(health.node_eligibility(Eligibility::Eligible));
    assert!(health.healthz(time.at(2)).ok);
}

/// HZ-7.
#[test]
fn only_deletion_makes_a_node_ineligible() {
    assert_eq!(Eligibility::of(true, []), Eligibility::Deleting);
    assert_eq!(Eligibility::of(false, ["a", DELETION_TAINT]), Eligibility::Tainted);
    let others = [
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    assert_eq!(Eligibility::of(false, others), Eligibility::Eligible);
    assert!(Eligibility::Unknown.is_eligible());
}

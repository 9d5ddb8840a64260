//! The real cluster: what holds only if a real API server, controllers, kubelets and pods are there.
//!
//! All cases use one cluster, one after another, because bringing one up takes most of a minute. So
//! this is a program with a list of cases, and no collection of `#[test]`: somebody has to take the
//! cluster down after the last case, whatever became of it. It takes the words of `cargo test` and
//! prints what libtest prints.

mod agents;
mod api;
mod flows;
mod harness;
mod health;
mod health_check;
mod manifests;
mod outage;
mod rollout;
mod services;
mod slices;
mod stage;
mod vote;

use std::process::ExitCode;

use harness::Case;

/// The cases in the order of running. Those that disturb the whole cluster come last.
const CASES: &[Case] = &[
    Case::new("vote_is_shared_scaled_refused_and_found_by_name", vote::whole),
    Case::new("no_kube_proxy_and_no_service_rule_is_on_any_node", vote::no_other_proxy),
    Case::new("a_rolling_update_loses_no_request", rollout::loses_nothing),
    Case::new("services_change_their_type_both_ways", services::types),
    Case::new("headless_services_have_names_and_no_frontends", services::headless),
    Case::new("services_of_another_proxy_are_left_to_it", services::other_proxy),
    Case::new("a_service_made_anew_is_at_its_new_address_only", services::made_anew),
    Case::new("slices_written_by_hand_serve_unless_headless", slices::by_hand),
    Case::new("endpoints_objects_are_mirrored", slices::mirrored),
    Case::new("health_follows_the_node_object", health::node_object),
    Case::new("health_and_metrics_speak_as_kube_proxy_does", health::endpoints),
    Case::new("a_health_check_port_that_is_taken_is_an_event", health_check::taken),
    Case::new("the_agent_starts_with_an_event", api::event),
    Case::new("the_agent_asks_for_no_more_than_it_may", api::requests),
    Case::new("an_outage_of_the_api_server_loses_nothing", outage::loses_nothing),
    Case::new("agents_deleted_and_upgraded_lose_nothing", agents::lose_nothing),
];

fn main() -> ExitCode {
    harness::main(CASES)
}

//! The verifier's instruction count of each program stays within its budget.

use std::path::Path;

use lb_tests::{budget, lab};

#[test]
fn every_program_stays_within_its_instruction_budget() {
    check(&budget::object());
}

#[test]
fn tracing_fits_into_the_same_budget() {
    check(&budget::trace_object());
}

fn check(object: &Path) {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let costs = budget::costs(object).expect("the kernel accepts every program");
    let over: Vec<String> = costs
        .iter()
        .filter(|cost| cost.verified > cost.budget())
        .map(|cost| format!("{}: {} of {}", cost.program, cost.verified, cost.budget()))
        .collect();
    assert!(over.is_empty(), "over budget: {}", over.join(", "));
    for (program, _) in budget::BUDGETS {
        assert!(
            costs.iter().any(|cost| cost.program == *program),
            "{program} is not in the object"
        );
    }
}

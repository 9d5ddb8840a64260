//! The verifier's instruction count of each program stays within its budget.

use lb_tests::{budget, lab};

#[test]
fn every_program_stays_within_its_instruction_budget() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let costs = budget::costs(&budget::object()).unwrap();
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

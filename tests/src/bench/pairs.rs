//! Samples in turn: two things measured as neighbours in time, since only neighbours can be compared.

use anyhow::Result;

/// Takes so many pairs. Which of the two goes first alternates, so that a drift falls on both alike.
pub(super) fn take<T>(
    pairs: u32,
    mut case: impl FnMut() -> Result<T>,
    mut reference: impl FnMut() -> Result<T>,
) -> Result<Vec<(T, T)>> {
    let mut taken = Vec::new();
    for pair in 0..pairs {
        taken.push(if pair % 2 == 0 {
            let case = case()?;
            (case, reference()?)
        } else {
            let reference = reference()?;
            (case()?, reference)
        });
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    #[test]
    fn who_goes_first_alternates_and_the_pairs_stay_sorted() {
        let order = RefCell::new(String::new());
        let say = |name| {
            order.borrow_mut().push(name);
            Ok(name)
        };
        let taken = take(3, || say('a'), || say('b')).expect("both answer");
        assert_eq!(order.into_inner(), "abbaab");
        assert_eq!(taken, [('a', 'b'); 3]);
    }

    #[test]
    fn what_fails_ends_the_pairs() {
        let mut asked = 0;
        let failing = || {
            asked += 1;
            bail!("no")
        };
        assert!(take(5, || Ok(()), failing).is_err());
        assert_eq!(asked, 1);
    }
}

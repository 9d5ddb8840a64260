//! Which cases are measured: those whose name contains one of the reader's words.

use anyhow::{Result, bail};

use super::case::Case;

/// Parts of names; none means every case.
#[derive(Clone, Debug, Default)]
pub struct Selection(pub Vec<String>);

impl Selection {
    /// Keeps what is meant, in its order.
    ///
    /// # Errors
    /// When nothing is left: names what there was.
    pub fn narrow<T>(&self, all: Vec<T>, case: impl Fn(&T) -> &Case) -> Result<Vec<T>> {
        let Self(words) = self;
        let names: Vec<String> = all.iter().map(|one| case(one).to_string()).collect();
        let meant = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
        let kept: Vec<T> = all
            .into_iter()
            .zip(&names)
            .filter_map(|(one, name)| meant(name).then_some(one))
            .collect();
        if kept.is_empty() {
            bail!(
                "no case has {} in its name; the cases are:\n  {}",
                words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
                names.join("\n  ")
            );
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::{At, Subject, Traffic};
    use super::*;

    fn narrowed(words: &[&str]) -> Result<Vec<String>> {
        let case =
            |at, traffic| Case { subject: Subject::Ours, at, ipv6: false, traffic, services: 1 };
        let all = vec![
            case(At::Xdp, Traffic::New),
            case(At::Pod, Traffic::New),
            case(At::Xdp, Traffic::Unrelated),
        ];
        let selection = Selection(words.iter().map(ToString::to_string).collect());
        let kept = selection.narrow(all, |case| case)?;
        Ok(kept.iter().map(Case::to_string).collect())
    }

    #[test]
    fn any_word_of_a_name_chooses_it_and_no_word_chooses_all() {
        assert_eq!(narrowed(&[]).unwrap().len(), 3);
        assert_eq!(
            narrowed(&["new"]).unwrap(),
            ["xdp v4 new flow each", "tc pod v4 new flow each"]
        );
        assert_eq!(
            narrowed(&["unrel", "pod"]).unwrap(),
            ["tc pod v4 new flow each", "xdp v4 unrelated"]
        );
    }

    #[test]
    fn a_word_of_no_case_is_told_with_the_names_that_there_are() {
        let told = narrowed(&["udp"]).unwrap_err().to_string();
        assert!(told.contains("\"udp\"") && told.contains("xdp v4 unrelated"), "{told}");
    }
}

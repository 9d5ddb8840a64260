//! The flags that `lb run` accepts for kube-proxy's sake, made from the table of its settings.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::proxy::{
    Flags,
    kind::Kind,
    table::{SETTINGS, Setting, Treatment},
};

/// What was typed of them.
#[derive(Clone, Debug, Default)]
pub struct ProxyFlags {
    /// Each flag that was given, by its name, with its values.
    pub given: Flags,
}

/// The settings whose flag is only there for kube-proxy's sake.
fn settings() -> impl Iterator<Item = (&'static str, &'static Setting)> {
    let compat = SETTINGS.iter().filter(|setting| setting.flag.is_compat());
    compat.filter_map(|setting| Some((setting.flag.name()?, setting)))
}

impl Args for ProxyFlags {
    fn augment_args(command: Command) -> Command {
        let args = settings().map(|(flag, setting)| {
            let arg = Arg::new(flag)
                .long(flag)
                .action(ArgAction::Append)
                .value_name(value_name(setting.kind))
                .help(help(setting))
                .help_heading("kube-proxy's flags (docs/kube-proxy-flags.md)")
                // A page of flags that do little is for those who ask for it by --help.
                .hide_short_help(true);
            if matches!(setting.kind, Kind::Bool) {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                // `--oom-score-adj -999`.
                arg.allow_hyphen_values(true)
            }
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = settings().filter_map(|(flag, _)| {
            let values = matches.get_many::<String>(flag)?;
            Some((flag, values.cloned().collect()))
        });
        Ok(Self { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn help(setting: &Setting) -> String {
    match setting.treatment {
        Treatment::Honoured => upper(setting.note),
        Treatment::Ignored => format!("Ignored: {}", setting.note),
        Treatment::Refused => format!("Refused when true: {}", setting.note),
    }
}

fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

const fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "BOOL",
        Kind::Int { .. } | Kind::Number => "N",
        Kind::Text => "TEXT",
        Kind::Choice(_) => "WORD",
        Kind::Duration | Kind::Period => "TIME",
        Kind::Quantity => "BYTES",
        Kind::Ip => "IP",
        Kind::Served => "ADDR:PORT",
        Kind::List => "LIST",
        Kind::Pair => "CIDRS",
        Kind::Gates => "NAME=BOOL",
    }
}

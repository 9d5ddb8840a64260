//! The manifests of `deploy/`: the Kustomize base and the Helm chart say the same, and ask for no right
//! that kube-proxy does not have.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use serde_yaml_ng::{Deserializer, Value};

/// What `system:node-proxier` may do: groups, resources, verbs.
const NODE_PROXIER: [(&[&str], &[&str], &[&str]); 5] = [
    (&[""], &["services", "endpoints"], &["list", "watch"]),
    (&[""], &["nodes"], &["get", "list", "watch"]),
    (&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
    (&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
    (&["networking.k8s.io"], &["servicecidrs"], &["list", "watch"]),
];

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|why| panic!("deploy/{path}: {why}"))
}

fn documents(yaml: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).expect("is YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

/// The files that the Kustomize base names.
fn resources() -> Vec<String> {
    let base = documents(&read("kustomization.yaml")).remove(0);
    let names = base["resources"].as_sequence().expect("the base lists its files");
    names.iter().map(|name| name.as_str().expect("is a name").to_owned()).collect()
}

/// An object of the base.
fn object(kind: &str) -> Value {
    resources()
        .iter()
        .flat_map(|file| documents(&read(file)))
        .find(|object| object["kind"] == kind)
        .unwrap_or_else(|| panic!("deploy/ has no {kind}"))
}

/// The chart's values, changed as an operator would with `--set`.
fn values(set: &[(&str, &str)]) -> Value {
    let mut values = documents(&read("helm/lb/values.yaml")).remove(0);
    for (path, value) in set {
        let place = path.split('.').fold(&mut values, |at, key| &mut at[key]);
        *place = Value::String((*value).to_owned());
    }
    values
}

/// Renders the subset of Helm's templates that the chart uses: values with the filters `toJson` and
/// `toString`, the release's namespace, and lines between `if` and `end`.
fn render(template: &str, values: &Value) -> String {
    let lookup = |path: &str| {
        path.split('.').fold(values, |at, key| at.get(key).unwrap_or_else(|| panic!("no {path}")))
    };
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_)) => panic!("{other:?} has no plain form"),
    };
    let expression = |text: &str| {
        let mut words = text.split('|').map(str::trim);
        let what = words.next().expect("split gives one part at least");
        let value = match what.strip_prefix(".Values.") {
            Some(path) => lookup(path).clone(),
            None if what == ".Release.Namespace" => Value::String("kube-system".into()),
            None => panic!("the test does not render {what:?}"),
        };
        let value = words.fold(value, |value, filter| match filter {
            "toString" => Value::String(plain(&value)),
            "toJson" => Value::String(serde_json::to_string(&value).expect("is JSON")),
            other => panic!("the test does not render the filter {other:?}"),
        });
        plain(&value)
    };
    let mut out = String::new();
    let mut shown = true;
    for line in template.lines() {
        if let Some(condition) = line.trim().strip_prefix("{{- if ") {
            let path = condition.trim_end_matches(" }}").trim_start_matches(".Values.");
            shown = !plain(lookup(path)).is_empty();
            continue;
        }
        if line.trim() == "{{- end }}" {
            shown = true;
            continue;
        }
        if !shown {
            continue;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").expect("braces come in pairs");
            out += before;
            out += &expression(inside);
            rest = after;
        }
        out += rest;
        out.push('\n');
    }
    out
}

fn chart(set: &[(&str, &str)]) -> Vec<Value> {
    let values = values(set);
    resources()
        .iter()
        .flat_map(|file| documents(&render(&read(&format!("helm/lb/templates/{file}")), &values)))
        .collect()
}

#[test]
fn the_chart_says_what_the_base_says() {
    let base: Vec<Value> = resources().iter().flat_map(|file| documents(&read(file))).collect();
    assert_eq!(chart(&[]), base);
    let templates = fs::read_dir(deploy().join("helm/lb/templates")).expect("the chart is there");
    let templates: BTreeSet<String> = templates
        .map(|entry| entry.expect("can be listed").file_name().into_string().expect("is text"))
        .collect();
    assert_eq!(templates, resources().into_iter().collect(), "one template for each file");
}

#[test]
fn the_charts_values_reach_the_objects() {
    let set = [
        ("apiServer.host", "192.0.2.1"),
        ("image.repository", "registry.example/lb"),
        ("cgroupRoot", "/elsewhere"),
    ];
    let objects = chart(&set);
    let find = |kind: &str| objects.iter().find(|object| object["kind"] == kind).expect("is there");
    let data = &find("ConfigMap")["data"];
    assert_eq!(data["KUBERNETES_SERVICE_HOST"], "192.0.2.1");
    assert_eq!(data["KUBERNETES_SERVICE_PORT"], "6443");
    let pod = &find("DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "registry.example/lb:0.1.0");
    assert_eq!(pod["volumes"][2]["hostPath"]["path"], "/elsewhere");
}

#[test]
fn helm_itself_renders_the_chart_like_the_test() {
    let chart_dir = deploy().join("helm/lb");
    let words = ["template", "lb", "--namespace", "kube-system", "--kube-version", "1.37.0"];
    let Ok(output) = Command::new("helm").args(words).arg(&chart_dir).output() else {
        println!("SKIPPED: helm is not installed");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let by_name = |objects: Vec<Value>| -> BTreeSet<String> {
        objects.iter().map(|object| serde_json::to_string(object).expect("is JSON")).collect()
    };
    let rendered = documents(&String::from_utf8(output.stdout).expect("is text"));
    assert_eq!(by_name(rendered), by_name(chart(&[])));
}

/// "RBAC no larger than system:node-proxier".
#[test]
fn the_agent_asks_for_no_right_that_kube_proxy_does_not_have() {
    let role = object("ClusterRole");
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule[key].as_sequence().expect("a rule lists them");
        list.iter().map(|word| word.as_str().expect("is a word").to_owned()).collect()
    };
    let rules = role["rules"].as_sequence().expect("the role has rules");
    assert!(!rules.is_empty());
    for rule in rules {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    let granted = NODE_PROXIER.iter().any(|(groups, resources, verbs)| {
                        groups.contains(&group.as_str())
                            && resources.contains(&resource.as_str())
                            && verbs.contains(&verb.as_str())
                    });
                    assert!(granted, "kube-proxy may not {verb} {resource} of {group:?}");
                }
            }
        }
    }
    let binding = object("ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], object("ServiceAccount")["metadata"]["name"]);
}

#[test]
fn the_image_is_the_one_that_this_version_makes() {
    let version = env!("CARGO_PKG_VERSION");
    let pod = object("DaemonSet")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["containers"][0]["image"], format!("docker.io/library/lb:{version}").as_str());
    let chart = documents(&read("helm/lb/Chart.yaml")).remove(0);
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
}

/// HZ-8: whether the container lives is asked at /livez, which a node that is to be removed answers too.
#[test]
fn the_probes_ask_where_the_configuration_listens() {
    let configuration = object("ConfigMap")["data"]["config.conf"].clone();
    let configuration = documents(configuration.as_str().expect("is a file")).remove(0);
    let at = configuration["healthzBindAddress"].as_str().expect("is an address");
    let port: u16 = at.rsplit(':').next().and_then(|port| port.parse().ok()).expect("has a port");
    let container = object("DaemonSet")["spec"]["template"]["spec"]["containers"][0].clone();
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/healthz")]
    {
        assert_eq!(container[probe]["httpGet"]["port"], port);
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
}

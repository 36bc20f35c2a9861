use super::*;
use crate::cluster::types::Family;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.7
  ports:
  - port: 80
";
const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- port: 8080
endpoints:
- addresses: [10.1.0.1]
";

fn text(text: &str, json: bool) -> Result<Content, Broken> {
    read(text.as_bytes(), json, &mut Converter::new(), "here")
}

#[track_caller]
fn yaml(source: &str) -> Content {
    text(source, false).unwrap_or_else(|Broken(remark)| panic!("{remark}"))
}

#[track_caller]
fn json(source: &str) -> Content {
    text(source, true).unwrap_or_else(|Broken(remark)| panic!("{remark}"))
}

#[track_caller]
fn broken(source: &str, json: bool) -> String {
    let Broken(remark) = text(source, json).expect_err("broken");
    remark.to_string()
}

fn keys(content: &Content) -> Vec<String> {
    content.objects.iter().map(|found| found.object.key().to_string()).collect()
}

fn remarks(content: &Content) -> Vec<String> {
    content.remarks.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn good(content: &Content) -> Vec<String> {
    assert_eq!(remarks(content), [""; 0]);
    assert_eq!((&*content.unusable, content.nameless), (&[][..], 0));
    keys(content)
}

#[test]
fn several_documents() {
    let content = yaml(&format!("# hello\n---\n---{SERVICE}---\n# nothing\n---{SLICE}...\n---\n"));
    assert_eq!(good(&content), ["Service default/web", "EndpointSlice default/web-1"]);
    let Object::Slice(slice) = &content.objects[1].object else { panic!("no slice") };
    assert_eq!(slice.family, Family::V4);
    assert_eq!(slice.endpoints.len(), 1);
    assert!(yaml("").objects.is_empty());
    assert!(json(" \n").objects.is_empty());
    assert_eq!(good(&yaml(&format!("\u{feff}{SERVICE}"))), ["Service default/web"]);
    assert_eq!(good(&yaml(&SERVICE.replace('\n', "\r\n"))), ["Service default/web"]);
}

#[test]
fn kinds_that_are_not_ours_are_left_alone() {
    let content = yaml(
        "{apiVersion: apps/v1, kind: Deployment, spec: {items: 1}}
---
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: web}}
---
{apiVersion: v1, kind: Endpoints}
---
{apiVersion: v1, kind: ConfigMapList, items: []}
---
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None}}
",
    );
    assert_eq!(good(&content), [""; 0]);
}

#[test]
fn of_nodes_only_the_own() {
    let node = |name: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n---\n");
    assert_eq!(good(&yaml(&(node("elsewhere") + &node("here")))), ["Node here"]);
}

#[test]
fn lists() {
    let service = |name: &str| {
        format!(r#""metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"10.0.0.1","ports":[{{"port":1}}]}}"#)
    };
    let (a, b) = (service("a"), service("b"));
    let typed = format!(r#"{{"apiVersion":"v1","kind":"Service",{b}}}"#);
    // As `kubectl get -o json` writes it: the kind after the items.
    let of_kubectl = format!(r#"{{"apiVersion":"v1","items":[{typed}],"kind":"List","metadata":{{}}}}"#);
    // As the API server writes it: items do not say what they are.
    let of_server = format!(r#"{{"kind":"ServiceList","apiVersion":"v1","items":[{{{a}}},{typed}]}}"#);
    let nested = format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{of_kubectl},{{"apiVersion":"v1","kind":"Pod"}}]}}"#
    );
    let slices = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSliceList","items":[
        {"metadata":{"name":"s","labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv6","endpoints":[]}]}"#;
    for read in [json, yaml] {
        assert_eq!(good(&read(&of_kubectl)), ["Service default/b"]);
        assert_eq!(good(&read(&of_server)), ["Service default/a", "Service default/b"]);
        assert_eq!(good(&read(&nested)), ["Service default/b"]);
        assert_eq!(good(&read(slices)), ["EndpointSlice default/s"]);
        assert_eq!(good(&read(r#"{"apiVersion":"v1","kind":"List","items":null}"#)), [""; 0]);
        assert_eq!(good(&read(r#"{"apiVersion":"v1","kind":"List"}"#)), [""; 0]);
    }
    assert_eq!(good(&json(&format!("{of_server}\n{slices}"))).len(), 3, "several values behind each other");
}

#[test]
fn json_and_yaml_in_files_of_the_other_name() {
    let object = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80}]}}"#;
    assert_eq!(good(&yaml(object)), ["Service default/a"]);
    assert_eq!(
        good(&yaml(
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}"
        )),
        ["Service default/a"]
    );
    assert_eq!(broken(SERVICE, true), ":2: expected value");
}

#[test]
fn merge_keys_and_aliases() {
    let content = yaml(
        "
apiVersion: v1
kind: List
items:
- &web
  apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: &spec {clusterIP: 10.0.0.1, ports: [{port: 80}]}
- <<: *web
  metadata: {name: b}
- {apiVersion: v1, kind: Service, metadata: {name: c}, spec: *spec}
",
    );
    assert_eq!(good(&content), ["Service default/a", "Service default/b", "Service default/c"]);
}

#[test]
fn what_cannot_be_read_is_told_with_its_line() {
    assert_eq!(
        broken("a: 1\nb: [1\nc: 2\n", false),
        ":3: did not find expected ',' or ']', while parsing a flow sequence at line 2 column 4"
    );
    assert!(broken(&format!("{SERVICE}---\na: b: c\n"), false).starts_with(":10: "));
    assert!(broken("a: 1\nb: 2\na: 3\n", false).contains("duplicate entry with key \"a\""));
    assert_eq!(broken("{\"kind\":\n\"Service\",", true), ":2: EOF while parsing an object");
    assert_eq!(broken("{}\n{]", true), ":2: key must be a string");
    let Broken(remark) = read(b"a: 1\nb: \xff\n", false, &mut Converter::new(), "").expect_err("broken");
    assert_eq!(remark.to_string(), ":2: found bytes that are no UTF-8, allowed YAML or JSON in UTF-8");
}

#[test]
fn a_bad_object_is_named_with_its_line_and_the_others_apply() {
    let bad = SERVICE.replace("name: web", "namespace: shop, name: bad").replace("80", "0");
    let content = yaml(&format!("---{bad}---{SERVICE}"));
    assert_eq!(keys(&content), ["Service default/web"]);
    assert_eq!(remarks(&content), [":8: Service shop/bad: spec.ports[0].port: found 0, allowed 1 to 65535"]);
    assert_eq!(content.unusable, [Kind::Service.key(Some("shop"), "bad")]);
    assert_eq!(content.nameless, 0);
}

#[test]
fn a_field_of_the_wrong_type() {
    let list = r#"{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},
 "spec":{"clusterIP":"10.0.0.1","ports":[
   {"port":"eighty"}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"clusterIP":"None"}}]}"#;
    for read in [json, yaml] {
        let content = read(list);
        assert_eq!(
            remarks(&content),
            [":4: Service default/a: spec.ports[0].port: found string \"eighty\", allowed a whole number"]
        );
        assert_eq!(content.unusable, [Kind::Service.key(None, "a")]);
    }
    // Wrong types that only YAML produces.
    let content = yaml(&SERVICE.replace("10.96.0.7", "10.96"));
    assert_eq!(
        remarks(&content),
        [":6: Service default/web: spec.clusterIP: found floating point `10.96`, allowed a string"]
    );
    let content =
        yaml(&SLICE.replace("endpoints:", "endpoints:\n- {addresses: [10.1.0.2], conditions: {ready: yes}}"));
    assert_eq!(
        remarks(&content),
        [
            ":9: EndpointSlice default/web-1: endpoints[0].conditions.ready: found string \"yes\", allowed a boolean"
        ]
    );
}

#[test]
fn a_field_that_is_missing_has_the_line_of_what_should_hold_it() {
    let content =
        yaml("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.0.0.1\n");
    assert_eq!(
        remarks(&content),
        [":5: Service default/web: spec.ports: found nothing, allowed at least one port"]
    );
}

#[test]
fn objects_that_do_not_say_what_or_who_they_are() {
    for (source, wanted) in [
        ("a: 1", ":1: kind: found nothing, allowed a Kubernetes object with apiVersion and kind"),
        ("[1, 2]", ":1: kind: found nothing, allowed a Kubernetes object with apiVersion and kind"),
        ("kind: 7", ":1: kind: found nothing, allowed a Kubernetes object with apiVersion and kind"),
        ("kind: Service", ":1: Service: apiVersion: found nothing, allowed v1"),
        ("apiVersion: v2\nkind: Service", ":1: Service: apiVersion: found \"v2\", allowed v1"),
        (
            "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1beta1",
            ":2: EndpointSlice: apiVersion: found \"discovery.k8s.io/v1beta1\", allowed discovery.k8s.io/v1",
        ),
        (
            "kind: List\napiVersion: v1\nitems: 3",
            ":3: items: found something else, allowed an array of objects",
        ),
        (
            "kind: Service\napiVersion: v1\nspec: {clusterIP: 10.0.0.1}",
            ":1: Service default/(no name): metadata.name: found nothing, allowed a name",
        ),
        (
            "kind: Service\napiVersion: v1\nmetadata: {name: 7}",
            ":3: Service (no name): metadata.name: found integer `7`, allowed a string",
        ),
    ] {
        let content = yaml(source);
        assert_eq!(remarks(&content), [wanted], "{source}");
        assert_eq!((&*content.unusable, content.nameless), (&[][..], 1), "{source}");
    }
}

#[test]
fn a_flawed_slice_is_marked() {
    let content = yaml(&SLICE.replace("endpoints:", "endpoints:\n- addresses: [10.1.0.300]"));
    assert!(content.objects[0].flawed);
    assert_eq!(
        remarks(&content),
        [":9: EndpointSlice default/web-1: endpoints[0].addresses[0]: found \"10.1.0.300\", \
          allowed an IPv4 address (addressType is IPv4)"]
    );
    assert_eq!((&*content.unusable, content.nameless), (&[][..], 0));
}

#[test]
fn an_object_twice_in_a_file() {
    let other = SERVICE.replace("10.96.0.7", "10.96.0.8");
    let content = yaml(&format!("{SERVICE}---{other}---{other}"));
    assert_eq!(keys(&content), ["Service default/web"]);
    let Object::Service(service) = &content.objects[0].object else { panic!("no Service") };
    assert_eq!(service.cluster_ips[0].to_string(), "10.96.0.7");
    assert_eq!(
        remarks(&content)[0],
        ": Service default/web is in this file more than once, the first is used"
    );
}

#[test]
fn lines_are_looked_up_for_the_first_bad_objects_only() {
    let bad = SERVICE.replace("port: 80", "port: 0");
    let count = Reader::MOST_LOCATED + 10;
    let documents: Vec<String> = (0..count).map(|n| bad.replace("web", &format!("web{n}"))).collect();
    let content = yaml(&documents.join("---"));
    assert_eq!(content.remarks.len(), count);
    let located = content.remarks.iter().filter(|remark| remark.line.is_some()).count();
    assert_eq!(located, Reader::MOST_LOCATED);
}

#[test]
fn lists_without_end() {
    let deep = |count: usize| {
        let head = r#"{"apiVersion":"v1","kind":"List","items":["#;
        format!("{}{}", head.repeat(count), "]}".repeat(count))
    };
    assert_eq!(good(&json(&deep(Reader::DEEPEST))), [""; 0]);
    for (read, count) in [(json as fn(&str) -> Content, 1000), (yaml, 30)] {
        let content = read(&deep(count));
        assert_eq!(remarks(&content), [":1: items: found lists in lists, allowed 16 of them"]);
    }
}

/// Finding one line costs a walk through all of the YAML.
#[test]
fn of_a_large_file_few_lines_are_looked_up() {
    let bad = SERVICE.replace("port: 80", "port: 0");
    for (size, wanted) in [(1_000, Reader::MOST_LOCATED), (1 << 20, 3), (5 << 20, 1)] {
        let documents = format!("{bad}---").repeat(Reader::MOST_LOCATED + 10);
        let content = yaml(&format!("# {}\n{documents}", "x".repeat(size)));
        let located = content.remarks.iter().filter(|remark| remark.line.is_some()).count();
        assert_eq!(located, wanted, "{size}");
    }
}

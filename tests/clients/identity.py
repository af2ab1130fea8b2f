"""Identity's commands, each with what it needs before it and with what it changes."""

from __future__ import annotations

import json

from tests.clients.tour import Tour, said


def domains(tour: Tour) -> None:
    tour.add("domain create --description one d1", "domain list", "Name", "d1")
    tour.change("domain set --description other d1", "domain show d1", description="other", enabled=True)
    tour.change("domain set --disable d1", "domain show d1", enabled=False)
    tour.remove("domain delete d1", "domain list", "Name", "d1")


def projects(tour: Tour) -> None:
    tour.add("project create --description one --tag blue p1", "project list --long", "Name", "p1")
    tour.add("project create --parent p1 p2", "project list --parent p1", "Name", "p2")
    tour.change("project set --name p3 --disable p2", "project show p3", name="p3", enabled=False)
    tour.change("project set --tag red --property a=b p1", "project show p1", tags=["blue", "red"], a="b")
    tour.expect("project list", tour.column("project list --tags blue,red", "Name"), ["p1"])
    tour.remove("project delete p3", "project list", "Name", "p3")
    tour("project delete p1")


def users_and_groups(tour: Tour) -> None:
    tour("project create people")
    tour.add("user create --password first --email a@b --project people u1", "user list --long", "Name", "u1")
    tour.change("user set --email c@d --description d u1", "user show u1", email="c@d", description="d")
    tour("role add --user u1 --project people member")
    tour.meet("u1", "first", "people")
    tour("user password set --password second --original-password first", who="u1")
    tour.expect("user password set", tour.works("token issue", who="u1"), False)
    tour.meet("u1", "second", "people")
    tour.expect("user password set", tour.works("token issue", who="u1"), True)

    tour.add("group create --description one g1", "group list", "Name", "g1")
    tour.change("group set --description other g1", "group show g1", description="other")
    tour.expect("group contains user", "u1 in group" in tour("group contains user g1 u1"), False)
    tour.add("group add user g1 u1", "user list --group g1", "Name", "u1")
    tour.expect("group contains user", "u1 in group" in tour("group contains user g1 u1"), True)
    tour.expect("group list", tour.column("group list --user u1", "Name"), ["g1"])
    tour.remove("group remove user g1 u1", "user list --group g1", "Name", "u1")
    tour.remove("group delete g1", "group list", "Name", "g1")
    tour.remove("user delete u1", "user list", "Name", "u1")
    tour("project delete people")


def roles(tour: Tour) -> None:
    tour.add("role create --description one r1", "role list", "Name", "r1")
    tour.change("role set --description other r1", "role show r1", description="other")
    look = "role assignment list --names --user demo --project demo"
    tour.add("role add --user demo --project demo r1", look, "Role", "r1")
    tour.remove("role remove --user demo --project demo r1", look, "Role", "r1")
    tour.add("role add --user demo --system all r1", "role assignment list --system all", "Role", _role(tour))
    tour("role remove --user demo --system all r1")
    implied = "implied role list"
    tour.add("implied role create r1 --implied-role reader", implied, "Prior Role Name", "r1")
    tour.remove("implied role delete r1 --implied-role reader", implied, "Prior Role Name", "r1")
    tour.remove("role delete r1", "role list", "Name", "r1")


def _role(tour: Tour) -> str:
    return str(tour("role show r1")["id"])


def catalogue(tour: Tour) -> None:
    tour.add("region create --description one R2", "region list", "Region", "R2")
    tour.change("region set --description other R2", "region show R2", description="other")
    tour.add("service create --name thing --description one things", "service list --long", "Name", "thing")
    tour.change("service set --disable thing", "service show thing", enabled=False)
    tour.change("service set --enable --name that thing", "service show that", enabled=True, name="that")
    line = "endpoint create --region R2 that public http://localhost/one"
    endpoint = tour.add(line, "endpoint list --service that", "ID", said("id"))["id"]
    tour.change(f"endpoint set --url http://localhost/other {endpoint}", f"endpoint show {endpoint}",
                url="http://localhost/other")  # fmt: skip
    tour.expect("catalog list", "that" in tour.column("catalog list", "Name"), True)
    tour.expect("catalog show", tour("catalog show that")["name"], "that")

    tour("project create seen")
    own = "endpoint list --project seen"
    tour.add(f"endpoint add project {endpoint} seen", own, "ID", endpoint)
    tour.remove(f"endpoint remove project {endpoint} seen", own, "ID", endpoint)
    filters = tour.folder / "filters.json"
    filters.write_text(json.dumps({"interface": "public"}))
    other = tour.folder / "other.json"
    other.write_text(json.dumps({"interface": "admin"}))
    groups = "endpoint group list"
    tour.add(f"endpoint group create --description one eg {filters}", groups, "Name", "eg")
    tour.change(f"endpoint group set --filters {other} --description other eg", "endpoint group show eg",
                filters={"interface": "admin"}, description="other")  # fmt: skip
    tour.add("endpoint group add project eg seen", "endpoint group list --project seen", "Name", "eg")
    tour.remove("endpoint group remove project eg seen", "endpoint group list --project seen", "Name", "eg")
    tour.remove("endpoint group delete eg", groups, "Name", "eg")
    tour("project delete seen")

    tour.remove(f"endpoint delete {endpoint}", "endpoint list", "ID", endpoint)
    tour.remove("service delete that", "service list", "Name", "that")
    tour.remove("region delete R2", "region list", "Region", "R2")


def policies(tour: Tour) -> None:
    rules = tour.folder / "policy.json"
    rules.write_text(json.dumps({"admin": "role:admin"}))
    policy = tour.add(f"policy create {rules}", "policy list --long", "ID", said("id"))["id"]
    tour.change(f"policy set --type text/plain {policy}", f"policy show {policy}", type="text/plain")
    tour.remove(f"policy delete {policy}", "policy list", "ID", policy)


def credentials(tour: Tour) -> None:
    made = tour.add("credential create --type cert demo one", "credential list", "ID", said("id"))["id"]
    tour.change(f"credential set --user demo --type cert --data other {made}", f"credential show {made}",
                blob="other")  # fmt: skip
    tour.remove(f"credential delete {made}", "credential list", "ID", made)
    look = "ec2 credentials list"
    access = tour.add("ec2 credentials create", look, "Access", said("access"), who="demo")["access"]
    shown = tour(f"ec2 credentials show {access}", who="demo")
    tour.expect("ec2 credentials show", shown["access"], access)
    tour.remove(f"ec2 credentials delete {access}", look, "Access", access, who="demo")


def application_credentials(tour: Tour) -> None:
    rules = json.dumps([{"method": "GET", "path": "/v3/users", "service": "identity"}])
    look = "application credential list"
    tour.add(f"application credential create --role member --access-rules '{rules}' ac", look, "Name", "ac",
             who="demo")  # fmt: skip
    shown = tour("application credential show ac", who="demo")
    tour.expect("application credential show", shown["Name"], "ac")
    rule = next(iter(tour.column("access rule list", "ID", who="demo")), "")
    tour.expect("access rule show", tour(f"access rule show {rule}", who="demo")["Path"], "/v3/users")
    tour.remove("application credential delete ac", look, "Name", "ac", who="demo")
    tour.remove(f"access rule delete {rule}", "access rule list", "ID", rule, who="demo")


def trusts(tour: Tour) -> None:
    demo, admin = (tour(f"user show {name}")["id"] for name in ("demo", "admin"))
    project = tour("project show demo")["id"]
    role = tour("role show member")["id"]  # people without rights on roles name them by id
    line = f"trust create --project {project} --role {role} --impersonate {demo} {admin}"
    look = f"trust list --trustor {demo}"
    trust = tour.add(line, look, "ID", said("id"), who="demo")["id"]
    tour.expect("trust show", tour(f"trust show {trust}", who="demo")["trustee_user_id"], admin)
    tour.remove(f"trust delete {trust}", look, "ID", trust, who="demo")


def oauth(tour: Tour) -> None:
    made = tour.add("consumer create --description one", "consumer list", "ID", said("id"))
    consumer, secret = made["id"], made["secret"]
    tour.change(f"consumer set --description other {consumer}", f"consumer show {consumer}",
                description="other")  # fmt: skip
    keys = f"--consumer-key {consumer} --consumer-secret {secret}"
    request = tour(f"request token create {keys} --project admin")
    key = request["key"] or request["id"]
    pin = tour(f"request token authorize --request-key {key} --role member")["oauth_verifier"]
    tour.expect("request token authorize", bool(pin), True)
    line = f"access token create {keys} --request-key {key} --request-secret {request['secret']}"
    access = tour(f"{line} --verifier {pin}")
    tour.expect("access token create", bool(access["secret"]), True)
    tour.expect("access token create", tour.works(f"{line} --verifier {pin}"), False)  # once, not twice
    tour.remove(f"consumer delete {consumer}", "consumer list", "ID", consumer)


def limits(tour: Tour) -> None:
    look = "registered limit list"
    line = "registered limit create --service image --default-limit 10 things"
    registered = tour.add(line, look, "ID", said("id"))["id"]
    tour.change(f"registered limit set --default-limit 20 {registered}", f"registered limit show {registered}",
                default_limit=20)  # fmt: skip
    line = "limit create --project demo --service image --resource-limit 5 things"
    limit = tour.add(line, "limit list", "ID", said("id"))["id"]
    tour.change(f"limit set --resource-limit 6 {limit}", f"limit show {limit}", resource_limit=6)
    tour.remove(f"limit delete {limit}", "limit list", "ID", limit)
    tour.remove(f"registered limit delete {registered}", look, "ID", registered)


def tokens(tour: Tour) -> None:
    token = tour("token issue", who="demo")["id"]
    tour.meet_token("bearer", token)
    tour.expect("token issue", tour.works("catalog list", who="bearer"), True)
    tour(f"token revoke {token}", who="demo")
    tour.expect("token revoke", tour.works("catalog list", who="bearer"), False)


def federation(tour: Tour) -> None:
    rules = tour.folder / "rules.json"
    rules.write_text(
        json.dumps([{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "REMOTE_USER"}]}])
    )
    tour("identity provider create --remote-id one idp")
    tour("identity provider list")
    tour("identity provider set --disable idp")
    tour("identity provider show idp")
    tour(f"mapping create --rules {rules} map")
    tour("mapping list")
    tour(f"mapping set --rules {rules} map")
    tour("mapping show map")
    tour("federation protocol create --identity-provider idp --mapping map saml2")
    tour("federation protocol list --identity-provider idp")
    tour("federation protocol set --identity-provider idp --mapping map saml2")
    tour("federation protocol show --identity-provider idp saml2")
    tour("federation protocol delete --identity-provider idp saml2")
    tour("mapping delete map")
    tour("identity provider delete idp")
    sites = "--auth-url http://localhost/auth --service-provider-url http://localhost/sp"
    tour(f"service provider create {sites} sp")
    tour("service provider list")
    tour("service provider set --disable sp")
    tour("service provider show sp")
    tour("service provider delete sp")
    tour("role add --user admin --domain default reader")
    tour.expect("federation domain list", tour.column("federation domain list", "Name"), ["Default"])
    tour.expect("federation project list", tour.column("federation project list", "Name"), ["admin"])


SCENARIOS = (
    domains, projects, users_and_groups, roles, catalogue, policies, credentials, application_credentials, trusts,
    oauth, limits, tokens, federation,
)  # fmt: skip

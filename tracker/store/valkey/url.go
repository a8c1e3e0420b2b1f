package valkey

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parameters are what may follow the ? in a URL.
var parameters = []string{"addr", "db", "dial_timeout", "master_set", "skip_verify", "write_timeout"}

var schemes = []string{"valkey", "redis", "valkeys", "rediss", "unix"}

// CheckURL returns an error that says what is wrong with the URL of a database, or nil. It connects to
// nothing. Neither its text nor that of any other error has the user or the password of the URL.
//
//	valkey://HOST:PORT                            a single server, or a node of a cluster
//	valkeys://USER:PASSWORD@HOST:PORT             the same with TLS, and a user
//	unix:///PATH                                  a single server, by its Unix socket
//	valkey://HOST:PORT?addr=HOST:PORT             a cluster, of which some nodes are named
//	valkey://HOST:PORT?addr=HOST:PORT&master_set=NAME  the server that sentinels call NAME
//
// redis and rediss mean the same as valkey and valkeys. /NUMBER after the host, or db=NUMBER, names a
// database of a server that is not in a cluster.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	scheme, _, hasScheme := strings.Cut(text, "://")
	switch {
	case text == "" || !hasScheme:
		return errors.New("a URL such as valkey://127.0.0.1:6379 is wanted")
	case !slices.Contains(schemes, scheme):
		return errors.New("the URL begins with valkey:// or redis://, with valkeys:// or rediss:// for TLS, or with unix://")
	case err != nil || u.Fragment != "" || u.Opaque != "": // the text of err has the password
		return errors.New("this is no URL; in a user or a password, write / as %2F, ? as %3F, # as %23, @ as %40 and % as %25")
	}
	if u.Scheme == "unix" {
		if u.Host != "" || u.Path == "" || u.Path == "/" {
			return errors.New("unix:///PATH is wanted, with three slashes before the path")
		}
	} else if err := checkHost(u); err != nil {
		return err
	}
	return checkParameters(u)
}

// checkHost checks the host, and what is in the path: the number of a database.
func checkHost(u *url.URL) error {
	if u.Hostname() == "" {
		return errors.New("the URL names no host")
	}
	if strings.Contains(u.Host, ",") {
		return errors.New("name one server, and each other one as ?addr=HOST:PORT, with & between several")
	}
	if !isPort(u.Port()) && (u.Port() != "" || strings.HasSuffix(u.Host, ":")) {
		return fmt.Errorf("the port %q is not a number from 1 to 65535", u.Port())
	}
	path := strings.TrimPrefix(u.Path, "/")
	if path == "" {
		if u.Path == "/" { // rueidis would look for a number
			return errors.New("leave out the slash at the end, or write the number of a database after it")
		}
		return nil
	}
	return checkDatabase(path)
}

func checkParameters(u *url.URL) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("what follows the ? is not NAME=VALUE, with & between several")
	}
	for name, values := range query {
		if !slices.Contains(parameters, name) {
			return fmt.Errorf("the parameter %q is unknown: %s are allowed", name, strings.Join(parameters, ", "))
		}
		if len(values) > 1 && name != "addr" {
			return fmt.Errorf("the parameter %s is given twice", name)
		}
		for _, v := range values {
			if err := checkParameter(u, name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkParameter(u *url.URL, name, value string) error {
	switch name {
	case "addr":
		host, port, err := net.SplitHostPort(value)
		if err != nil || host == "" || !isPort(port) || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("addr=%s: HOST:PORT is wanted", value)
		}
		if u.Scheme == "unix" {
			return errors.New("addr is not for unix://")
		}
	case "db":
		return checkDatabase(value)
	case "dial_timeout", "write_timeout":
		if d, err := time.ParseDuration(value); err != nil || d < 100*time.Millisecond || d > time.Minute {
			return fmt.Errorf("%s=%s: 100ms to 1m", name, value)
		}
	case "master_set":
		if value == "" {
			return errors.New("master_set= needs the name by which the sentinels know the server")
		}
		if u.Scheme == "unix" {
			return errors.New("master_set is not for unix://")
		}
	case "skip_verify":
		if u.Scheme != "valkeys" && u.Scheme != "rediss" {
			return errors.New("skip_verify is for valkeys:// and rediss://")
		}
		if _, err := strconv.ParseBool(value); err != nil && value != "" {
			return fmt.Errorf("skip_verify=%s: true or false", value)
		}
	}
	return nil
}

func checkDatabase(text string) error {
	if n, err := strconv.ParseUint(text, 10, 31); err != nil || strconv.FormatUint(n, 10) != text {
		return errors.New("the database is not a number, such as 0")
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// Shown returns the servers that a URL names, in a form that may be shown: without user and password.
// Of a URL that is not valid it returns the scheme at most.
func Shown(text string) string {
	scheme, _, _ := strings.Cut(text, "://")
	if !slices.Contains(schemes, scheme) {
		return "..."
	}
	u, err := url.Parse(text)
	if err != nil || CheckURL(text) != nil {
		return scheme + "://..."
	}
	servers := append([]string{u.Host + u.Path}, u.Query()["addr"]...)
	shown := scheme + "://" + strings.Join(servers, ",")
	if name := u.Query().Get("master_set"); name != "" {
		shown += " (" + name + ")"
	}
	return shown
}

// HasPassword says whether a URL that [CheckURL] accepts has a password.
func HasPassword(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return false
	}
	password, ok := u.User.Password()
	return ok && password != ""
}

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)

// CheckPrefix returns an error unless a text may be the prefix of all keys in the database. A brace would
// change where a cluster keeps a key.
func CheckPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) {
		return errors.New("1 to 32 letters, digits, dots, underscores or hyphens")
	}
	return nil
}

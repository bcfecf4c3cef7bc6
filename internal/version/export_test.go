package version

// Describe lets tests give the build information.
var Describe = describe
